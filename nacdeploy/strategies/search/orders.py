"""Which letters commute: learned from words that led to equal states."""


class Orders:
    """The words observed, up to swaps of neighbours that were seen to give equal states."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self._commuting: set[frozenset[str]] = set()
        self._normal: set[str] = set()

    def learn(self, word: str, state_key: str) -> None:
        """Remember a word, and which of its neighbours commute."""
        pairs = {frozenset(word[i : i + 2]) for i in range(len(word) - 1) if self._swapped(word, i) == state_key}
        self._keys[word] = state_key
        if pairs <= self._commuting:
            self._normal.add(self.normal(word))
        else:
            self._commuting |= pairs
            self._normal = {self.normal(known) for known in self._keys}

    def key(self, word: str) -> str | None:
        """The state an observed word led to."""
        return self._keys.get(word)

    def expects_nothing_new(self, word: str) -> bool:
        """Whether the word differs from an observed one only by swaps of commuting neighbours."""
        return self.normal(word) in self._normal

    def normal(self, word: str) -> str:
        """One representative of all words that commuting swaps reach (mostly: a miss costs one evaluation)."""
        out: list[str] = []
        for letter in word:
            i = len(out)
            while i and letter < out[i - 1] and frozenset((letter, out[i - 1])) in self._commuting:
                i -= 1
            out.insert(i, letter)
        return "".join(out)

    def _swapped(self, word: str, i: int) -> str | None:
        other = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        return None if other == word else self._keys.get(other)
