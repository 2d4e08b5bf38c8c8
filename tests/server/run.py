"""What an application does that starts uvicorn by itself, to give it the protocol: `run.py HOST PORT`."""

import sys
from pathlib import Path

import uvicorn

sys.path.insert(0, str(Path(__file__).parents[1]))
from server.apps import mounted, mounted_headcount

if __name__ == "__main__":
    uvicorn.run(mounted, host=sys.argv[1], port=int(sys.argv[2]), http=mounted_headcount.protocol)
