//! The time of kernels within a step, beside the least that the machine would take for them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use priorfit::graph::Stage;
use priorfit::plan::{Dispatch, Plan};
use serde::Serialize;

use super::roof::Roof;
use super::{bytes, ms};

/// What a row of a profile stands for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Detail {
    /// A kind of kernel in a stage of the step
    Kinds,
    /// A kind of kernel with one shape in a stage of the step
    Shapes,
}

/// Where the time of a step goes, longest first.
#[derive(Serialize)]
pub struct Profile {
    /// What the machine can do at most; not measured on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    roof: Option<Roof>,
    rows: Vec<Row>,
}

/// The launches of a step that a row stands for, together.
#[derive(Serialize)]
struct Row {
    kernel: String,
    stage: &'static str,
    count: usize,
    ms: f64,
    gflops: f64,
    gb_per_s: f64,
    #[serde(flatten)]
    least: Option<Least>,
}

/// What the launches take at least.
#[derive(Serialize)]
struct Least {
    least_ms: f64,
    /// What most of that is for.
    bound: &'static str,
}

#[derive(Default)]
struct Sum {
    count: usize,
    time: Duration,
    flops: u64,
    bytes: u64,
    /// Milliseconds of the launches that operations bound, and of those that memory does.
    least: [f64; 2],
}

impl Profile {
    /// Sums up the times of a plan's dispatches over `repeats` steps.
    pub fn new(
        plan: &Plan,
        times: &[Duration],
        repeats: u32,
        detail: Detail,
        roof: Option<Roof>,
    ) -> Self {
        let mut sums: BTreeMap<(String, &str), Sum> = BTreeMap::new();
        for (dispatch, &time) in plan.dispatches().iter().zip(times) {
            let kernel = match detail {
                Detail::Kinds => dispatch.kernel.name().to_string(),
                Detail::Shapes => dispatch.kernel.to_string(),
            };
            let sum = sums.entry((kernel, stage(dispatch))).or_default();
            sum.add(dispatch.kernel.flops(), bytes(plan, dispatch), time / repeats, roof);
        }
        let mut rows: Vec<Row> =
            sums.into_iter().map(|((kernel, stage), sum)| sum.row(kernel, stage, roof)).collect();
        rows.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        Profile { roof, rows }
    }
}

fn stage(dispatch: &Dispatch) -> &'static str {
    match dispatch.stage {
        Stage::Forward => "forward",
        Stage::Backward => "backward",
        Stage::Update => "update",
    }
}

impl Sum {
    fn add(&mut self, flops: u64, bytes: u64, time: Duration, roof: Option<Roof>) {
        self.count += 1;
        self.time += time;
        self.flops += flops;
        self.bytes += bytes;
        if let Some(roof) = roof {
            let (compute, memory) = roof.ms(flops, bytes);
            self.least[usize::from(memory > compute)] += compute.max(memory);
        }
    }

    fn row(self, kernel: String, stage: &'static str, roof: Option<Roof>) -> Row {
        let per_second =
            |count: u64| count as f64 / (1e9 * self.time.as_secs_f64()).max(f64::MIN_POSITIVE);
        let [compute, memory] = self.least;
        Row {
            kernel,
            stage,
            count: self.count,
            ms: ms(self.time),
            gflops: per_second(self.flops),
            gb_per_s: per_second(self.bytes),
            least: roof.map(|_| Least {
                least_ms: compute + memory,
                bound: if memory > compute { "memory" } else { "compute" },
            }),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Roof { gflops, gb_per_s }) = self.roof {
            writeln!(f, "machine      {gflops:.0} GFLOP/s, copies {gb_per_s:.1} GB/s")?;
        }
        let width = self.rows.iter().map(|row| row.kernel.len()).max().unwrap_or(0).max(20);
        write!(f, "{:width$} {:9}", "kernel", "stage")?;
        write!(f, "{:>6} {:>9} {:>9} {:>9}", "count", "ms", "GFLOP/s", "GB/s")?;
        match self.roof {
            Some(_) => writeln!(f, " {:>9} {:>6}  bound by", "least ms", "share")?,
            None => writeln!(f)?,
        }
        for Row { kernel, stage, count, ms, gflops, gb_per_s, least } in &self.rows {
            write!(f, "{kernel:width$} {stage:9}")?;
            write!(f, "{count:>6} {ms:>9.2} {gflops:>9.1} {gb_per_s:>9.1}")?;
            match least {
                Some(Least { least_ms, bound }) => {
                    let share = 100.0 * least_ms / ms;
                    writeln!(f, " {least_ms:>9.2} {share:>5.0}%  {bound}")?;
                }
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
