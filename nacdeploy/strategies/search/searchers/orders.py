"""Which steps commute: learned from words that led to equal states."""

from nacdeploy.strategies.search.observation import Word


class Orders:
    """The words observed, up to swaps of neighbours that were seen to give equal states; and the words under way."""

    def __init__(self) -> None:
        self._keys: dict[Word, str] = {}
        self._commuting: set[frozenset[str]] = set()
        self._normal: set[Word] = set()
        self._under_way: set[Word] = set()

    def expect(self, word: Word) -> None:
        """A word was proposed."""
        self._under_way.add(word)

    def forget(self, word: Word) -> None:
        """A proposed word was answered."""
        self._under_way.discard(word)

    def is_under_way(self, word: Word) -> bool:
        """Whether the word, or one that commuting swaps make of it, was proposed and not answered."""
        length, normal = len(word), self.normal(word) if self._under_way else ()
        return any(len(other) == length and self.normal(other) == normal for other in self._under_way)

    @property
    def n_under_way(self) -> int:
        """How many words were proposed and not answered."""
        return len(self._under_way)

    def learn(self, word: Word, state_key: str) -> None:
        """Remember a word, and which of its neighbours commute."""
        pairs = {frozenset(word[i : i + 2]) for i in range(len(word) - 1) if self._swapped(word, i) == state_key}
        self._keys[word] = state_key
        if pairs <= self._commuting:
            self._normal.add(self.normal(word))
        else:
            self._commuting |= pairs
            self._normal = {self.normal(known) for known in self._keys}

    def key(self, word: Word) -> str | None:
        """The state an observed word led to."""
        return self._keys.get(word)

    def expects_nothing_new(self, word: Word) -> bool:
        """Whether the word differs from an observed one only by swaps of commuting neighbours."""
        return self.normal(word) in self._normal

    def normal(self, word: Word) -> Word:
        """One representative of all words that commuting swaps reach (mostly: a miss costs one evaluation)."""
        out: list[str] = []
        for symbol in word:
            i = len(out)
            while i and symbol < out[i - 1] and frozenset((symbol, out[i - 1])) in self._commuting:
                i -= 1
            out.insert(i, symbol)
        return tuple(out)

    def _swapped(self, word: Word, i: int) -> str | None:
        other = (*word[:i], word[i + 1], word[i], *word[i + 2 :])
        return None if other == word else self._keys.get(other)
