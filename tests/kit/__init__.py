"""
What tests and benchmarks share: servers, commands, stores, ports, proxies, and pages that read the wire by themselves.

Nothing in here imports `headcount`: what the tests check must not check itself.
"""
