"""`sekd agent`: serves measurements from this machine, or packs the agent for another."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from sekd.errors import InputError


def agent(options: Namespace) -> int:
    if options.pack:
        from search.agent_pack import pack_agent

        print(f"wrote {pack_agent(Path(options.pack))}")
        return 0
    from search.agent.errors import UsageError
    from search.agent.server import serve

    try:
        return serve(options)
    except UsageError as error:
        raise InputError(f"agent: {error}") from error
