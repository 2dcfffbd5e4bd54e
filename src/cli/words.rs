//! Words of the domain as values of arguments and options.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::domain::acl::Action;
use crate::domain::delivery::Confirmation;
use crate::domain::routing::Strategy;

impl ValueEnum for Action {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.word()))
    }
}

impl ValueEnum for Confirmation {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.word()).help(match self {
            Self::Sent => "EMQX had a subscriber for it",
            Self::Delivered => "The device acknowledged it",
            Self::State => "The device then reported what it was told to be",
            Self::Reply => "The device said so on its reply topic",
        }))
    }
}

impl ValueEnum for Strategy {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.word()).help(match self {
            Self::All => "Every one",
            Self::Any => {
                "One: an online one if there is one, and of those the one that was commanded longest ago"
            }
            Self::First => "The first by name",
        }))
    }
}
