#!/usr/bin/env python3
"""What makes plans has no means to perform them: of the engine's planning library, no symbol that it lacks is one of the
agents' client, of the store, of the executor, or of a way to the network."""

import subprocess
import sys

# Sockets and HTTP, whoever offers them.
NETWORK = ("soup_", "g_socket", "g_unix_", "g_network", "g_tcp", "connect", "socket", "sendmsg", "sendto",
           "sqlite3_", "posix_spawn", "execv", "fork", "system", "popen")


def symbols(library: str, *options: str) -> set[str]:
    done = subprocess.run(["nm", *options, library], capture_output=True, text=True, check=True)
    return {line.split()[-1] for line in done.stdout.splitlines() if line.strip() and ":" not in line}


def main(plan: str, *forbidden: str) -> list[str]:
    lacks = symbols(plan, "--undefined-only")
    assert "cluster_plan_make" in lacks, "this test does not see the symbols"
    found = [f"{name} (of {library})" for library in forbidden
             for name in sorted(lacks & symbols(library, "--defined-only", "--extern-only"))]
    return found + sorted(name for name in lacks if name.startswith(NETWORK))


if __name__ == "__main__":
    found = main(*sys.argv[1:])
    print("\n".join(found))
    sys.exit(bool(found))
