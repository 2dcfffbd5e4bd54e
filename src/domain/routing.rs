//! Which of the devices that a routing rule matches get a command.

/// How a rule chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Every device.
    All,
    /// One: an online one if there is one, and of those the one that was commanded longest ago.
    Any,
    /// The first by name.
    First,
}

impl Strategy {
    const EVERY: [Self; 3] = [Self::All, Self::Any, Self::First];

    /// As tables, requests and results write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Any => "any",
            Self::First => "first",
        }
    }

    /// What a word stands for.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::EVERY.into_iter().find(|strategy| strategy.word() == word)
    }
}
