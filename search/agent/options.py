"""What an agent is started with; loads nothing but argparse, since `sekd --help` reads it too."""

from __future__ import annotations

import argparse

PORT = 8517


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen at; this machine alone unless given")
    add("--port", type=_whole, default=PORT, metavar="N", help=f"{PORT} unless given; 0 for any that is free")
    add("--cert", metavar="FILE.pem", help="certificate, for TLS")
    add("--key", metavar="FILE.pem", help="its key")
    add("--insecure", action="store_true", help="no TLS although others can reach the address")
    add("--token-file", metavar="FILE", help="holds the token; else SEKD_AGENT_TOKEN or SEKD_AGENT_TOKEN_FILE")
    add("--max-model-mib", type=_whole, default=64, metavar="N", help="largest model that is taken")
    add("--memory-mib", type=_whole, default=1024, metavar="N", help="address space of a measurement; 0: no limit")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > 2**20:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(text)
