//! `--blocks`: which weights vary together.

use clap::{Args, ValueEnum};
use priorfit::prior::Grouping;

#[derive(Args)]
pub struct BlocksArgs {
    /// Which weights the low-rank part lets vary together; what little there is of normalisations
    /// goes with its like
    #[arg(long, value_enum, default_value = "whole")]
    blocks: Blocks,
}

impl BlocksArgs {
    pub fn grouping(&self) -> Grouping {
        match self.blocks {
            Blocks::Whole => Grouping::Whole,
            Blocks::Stage => Grouping::Stage,
            Blocks::Layer => Grouping::Layer,
            Blocks::Tensor => Grouping::Tensor,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Blocks {
    /// All weights
    Whole,
    /// Names equal up to their first number, such as layer1.0
    Stage,
    /// Names equal but for their last word, such as layer1.0.conv1
    Layer,
    /// Those of each tensor
    Tensor,
}
