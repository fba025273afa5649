"""What a command decides for the user, and why."""

WIDTH = 17  # characters of the longest setting that decisions are about


class Decisions(dict[str, list[str]]):
    """Lines of reasons by the setting of the config that they are about, in their order."""

    def say(self, setting: str, line: str) -> None:
        """Print a line and keep it."""
        self.setdefault(setting, []).append(line)
        print(f"{setting:{WIDTH}}  {line}", flush=True)
