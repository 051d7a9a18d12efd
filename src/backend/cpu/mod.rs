//! Running plans on the processor.

mod execute;
mod memory;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use self::memory::{Aligned, Location};
use super::{Backend, PlanId};
use crate::error::{Error, Result};
use crate::graph::Leaf;
use crate::plan::{Place, Plan, Port};
use crate::tensor::contiguous;
use crate::threads::Threads;

/// The processor backend.
pub struct Cpu {
    threads: Arc<Threads>,
    plans: Vec<Loaded>,
    /// Resident leaves and constants.
    residents: Vec<Aligned>,
    by_leaf: HashMap<Leaf, usize>,
    /// Working memory of the plan that runs, long enough for the largest.
    arena: Aligned,
    scratch: Aligned,
}

struct Loaded {
    plan: Plan,
    /// Where each of the plan's buffers is.
    locations: Vec<Location>,
}

impl Cpu {
    /// A backend that runs on these threads.
    pub fn new(threads: Arc<Threads>) -> Self {
        Cpu {
            threads,
            plans: Vec::new(),
            residents: Vec::new(),
            by_leaf: HashMap::new(),
            arena: Aligned::zeros(0),
            scratch: Aligned::zeros(0),
        }
    }

    fn locate(&mut self, place: &Place, len: usize) -> Result<Location> {
        let index = match place {
            Place::Arena(start) => return Ok(Location::Arena { start: *start, len }),
            Place::Constant(tensor) => {
                self.residents.push(Aligned::from_slice(&contiguous(tensor)));
                self.residents.len() - 1
            }
            Place::Resident(leaf) => self.resident(leaf, len)?,
        };
        Ok(Location::Resident { index })
    }

    fn resident(&mut self, leaf: &Leaf, len: usize) -> Result<usize> {
        if let Some(&index) = self.by_leaf.get(leaf) {
            let known = self.residents[index].len();
            if known != len {
                let message = format!("'{}' has {known} elements, not {len}", leaf.name);
                return Err(Error::mismatch(message));
            }
            return Ok(index);
        }
        self.residents.push(Aligned::zeros(len));
        self.by_leaf.insert(leaf.clone(), self.residents.len() - 1);
        Ok(self.residents.len() - 1)
    }

    fn leaf_index(&self, leaf: &Leaf) -> Result<usize> {
        self.by_leaf
            .get(leaf)
            .copied()
            .ok_or_else(|| Error::internal(format!("no plan has a resident '{}'", leaf.name)))
    }

    /// The elements of a port in working memory.
    fn port(&mut self, plan: PlanId, name: &str, direction: Direction) -> Result<&mut [f32]> {
        let loaded = &self.plans[plan.0];
        let ports = match direction {
            Direction::Input => loaded.plan.inputs(),
            Direction::Output => loaded.plan.outputs(),
        };
        let port: &Port = ports
            .iter()
            .find(|port| port.name == name)
            .ok_or_else(|| Error::internal(format!("the plan has no port '{name}'")))?;
        Ok(match loaded.locations[port.buffer.index()] {
            Location::Arena { start, len } => &mut self.arena[start..start + len],
            Location::Resident { index } => &mut self.residents[index],
        })
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Input,
    Output,
}

impl Backend for Cpu {
    fn name(&self) -> String {
        format!("cpu ({} threads)", self.threads.count())
    }

    fn load(&mut self, plan: Plan) -> Result<PlanId> {
        let locations = plan
            .buffers()
            .iter()
            .map(|buffer| self.locate(&buffer.place, buffer.len))
            .collect::<Result<Vec<_>>>()?;
        self.arena.grow(plan.arena_len());
        self.scratch.grow(plan.scratch_len(self.threads.count()));
        self.plans.push(Loaded { plan, locations });
        Ok(PlanId(self.plans.len() - 1))
    }

    fn plan(&self, id: PlanId) -> &Plan {
        &self.plans[id.0].plan
    }

    fn set(&mut self, leaf: &Leaf, data: &[f32]) -> Result<()> {
        let index = self.leaf_index(leaf)?;
        copy(&mut self.residents[index], data, &leaf.name)
    }

    fn get(&self, leaf: &Leaf) -> Result<Vec<f32>> {
        Ok(self.residents[self.leaf_index(leaf)?].to_vec())
    }

    fn write(&mut self, plan: PlanId, input: &str, data: &[f32]) -> Result<()> {
        copy(self.port(plan, input, Direction::Input)?, data, input)
    }

    fn run(&mut self, plan: PlanId) -> Result<()> {
        self.run_observed(plan, &mut |_| {})
    }

    fn run_observed(&mut self, plan: PlanId, observe: &mut dyn FnMut(usize)) -> Result<()> {
        let loaded = &self.plans[plan.0];
        let memory = memory::Memory::new(&mut self.arena, &mut self.residents, &loaded.locations);
        for (index, dispatch) in loaded.plan.dispatches().iter().enumerate() {
            execute::execute(&self.threads, dispatch, &memory, &mut self.scratch);
            observe(index);
        }
        Ok(())
    }

    fn read(&mut self, plan: PlanId, output: &str, data: &mut [f32]) -> Result<()> {
        let value = self.port(plan, output, Direction::Output)?;
        copy(data, value, output)
    }

    fn bytes(&self) -> usize {
        let residents: usize = self.residents.iter().map(|r| r.len()).sum();
        4 * (residents + self.arena.len() + self.scratch.len())
    }

    fn bytes_with(&self, plans: &[&Plan]) -> Result<usize> {
        let workers = self.threads.count();
        let (mut arena, mut scratch) = (self.arena.len(), self.scratch.len());
        let mut residents: usize = self.residents.iter().map(|r| r.len()).sum();
        let mut new: HashSet<&Leaf> = HashSet::new();
        for plan in plans {
            arena = arena.max(plan.arena_len());
            scratch = scratch.max(plan.scratch_len(workers));
            for buffer in plan.buffers() {
                residents += match &buffer.place {
                    Place::Constant(_) => buffer.len,
                    Place::Resident(leaf)
                        if !self.by_leaf.contains_key(leaf) && new.insert(leaf) =>
                    {
                        buffer.len
                    }
                    _ => 0,
                };
            }
        }
        Ok(4 * (residents + arena + scratch))
    }
}

fn copy(to: &mut [f32], from: &[f32], name: &str) -> Result<()> {
    if to.len() != from.len() {
        let message = format!("'{name}': {} elements for {}", from.len(), to.len());
        return Err(Error::mismatch(message));
    }
    to.copy_from_slice(from);
    Ok(())
}
