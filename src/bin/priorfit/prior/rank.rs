//! `--rank`: a number of deviations, or `auto`.

use std::fmt;
use std::str::FromStr;

/// The number of deviations.
#[derive(Clone, Copy, PartialEq)]
pub enum Rank {
    /// So many.
    Number(usize),
    /// As many as it takes.
    Auto,
}

impl FromStr for Rank {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Rank::Auto),
            (_, Ok(rank)) => Ok(Rank::Number(rank)),
            _ => Err("expected a number or `auto`".to_string()),
        }
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rank::Number(rank) => rank.fmt(f),
            Rank::Auto => f.write_str("auto"),
        }
    }
}
