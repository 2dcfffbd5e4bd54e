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

words! {
    Strategy { All: "all", Any: "any", First: "first" }
}
