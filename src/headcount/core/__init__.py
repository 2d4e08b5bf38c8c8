"""Values in, values out: nothing here does I/O, reads a clock or imports asyncio (tests/core/test_purity.py)."""
