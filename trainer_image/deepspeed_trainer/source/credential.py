"""Git's credential helper: tells git the login, when git asks for the one host it is meant for.

Git starts it as `python -m deepspeed_trainer.source.credential FOLDER get`, so that the password
is in no argument, no environment and no file but the Secret's own.  Which host it is for, git
knows from the setting that names the helper.
"""

import sys
from pathlib import Path

from deepspeed_trainer.source.secret import Secret


def main(folder: str, verb: str) -> None:
    """Answer `get`; there is nothing to store or erase."""
    login = Secret(Path(folder), "mounted", "spec.code.git").login()
    if verb == "get" and login is not None:
        print(f"username={login[0]}\npassword={login[1]}")  # noqa: T201  it is how git asks


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
