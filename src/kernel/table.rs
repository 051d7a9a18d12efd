//! The table of kernels: names, operand lengths, scratch, work.

use std::fmt;

use super::matmul::Product;
use super::reduce::Reduce;
use super::tape::Tape;
use super::{conv2d, conv2d_filter_grad, conv2d_input_grad, map, matmul, update};
use crate::graph::{Conv2d, Hyper, Indices, PadAxis, Pool2d, PriorTerm, Slice, Update};
use crate::tensor::Shape;

/// A tape that follows a product.
#[derive(Clone, Debug, PartialEq)]
pub struct Fused {
    /// The program; its operands follow the product's, without its own.
    pub tape: Tape,
    /// Which of the tape's operands is the product's output.
    pub own: usize,
    /// Which result replaces the product's output; none if the product itself is kept, and then
    /// the results follow it.
    pub replaces: Option<usize>,
}

/// A kernel with its geometry: everything about a launch but the memory.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each kernel's own file says what it does and takes")]
pub enum Kernel {
    Map(Tape),
    Reduce(Reduce),
    MatMul(Product, Option<Fused>),
    Conv2d(Conv2d, Option<Fused>),
    Conv2dInputGrad(Conv2d, Option<Fused>),
    Conv2dFilterGrad(Conv2d),
    MaxPool(Pool2d),
    MaxPoolGrad(Pool2d),
    SumPool(Pool2d),
    SumPoolGrad(Pool2d),
    Softmax { rows: usize, columns: usize },
    LogSoftmax { rows: usize, columns: usize },
    Transpose { shape: Shape, perm: Vec<usize> },
    Slice { shape: Shape, slice: Slice },
    Pad { shape: Shape, axes: Vec<PadAxis> },
    Concat { shapes: Vec<Shape>, axis: usize },
    Gather { shape: Shape, indices: Indices },
    ScatterAdd { shape: Shape, indices: Indices },
    Update { update: Update, len: usize, rank: usize },
}

/// Lengths of a kernel's operands and results; `None` where any length will do.
type Lens = Vec<Option<usize>>;

impl Kernel {
    /// Its name, which is its file's and its shader's.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Map(_) => "map",
            Kernel::Reduce(_) => "reduce",
            Kernel::MatMul(..) => "matmul",
            Kernel::Conv2d(..) => "conv2d",
            Kernel::Conv2dInputGrad(..) => "conv2d_input_grad",
            Kernel::Conv2dFilterGrad(_) => "conv2d_filter_grad",
            Kernel::MaxPool(_) => "max_pool",
            Kernel::MaxPoolGrad(_) => "max_pool_grad",
            Kernel::SumPool(_) => "sum_pool",
            Kernel::SumPoolGrad(_) => "sum_pool_grad",
            Kernel::Softmax { .. } => "softmax",
            Kernel::LogSoftmax { .. } => "log_softmax",
            Kernel::Transpose { .. } => "transpose",
            Kernel::Slice { .. } => "slice",
            Kernel::Pad { .. } => "pad",
            Kernel::Concat { .. } => "concat",
            Kernel::Gather { .. } => "gather",
            Kernel::ScatterAdd { .. } => "scatter_add",
            Kernel::Update { .. } => "update",
        }
    }

    /// Whether a tape can follow it.
    pub fn takes_epilogue(&self) -> bool {
        match self {
            Kernel::MatMul(_, fused)
            | Kernel::Conv2d(_, fused)
            | Kernel::Conv2dInputGrad(_, fused) => fused.is_none(),
            _ => false,
        }
    }

    /// The tape that follows it.
    pub fn epilogue(&self) -> Option<&Fused> {
        match self {
            Kernel::MatMul(_, fused)
            | Kernel::Conv2d(_, fused)
            | Kernel::Conv2dInputGrad(_, fused) => fused.as_ref(),
            _ => None,
        }
    }

    /// Sets the tape that follows it; other kernels than products are left as they are.
    pub fn set_epilogue(&mut self, epilogue: Fused) {
        if let Kernel::MatMul(_, fused)
        | Kernel::Conv2d(_, fused)
        | Kernel::Conv2dInputGrad(_, fused) = self
        {
            *fused = Some(epilogue);
        }
    }

    /// Elements of scratch it needs beside its epilogue's.
    pub fn own_scratch_len(&self, workers: usize) -> usize {
        match self {
            Kernel::Map(tape) => map::scratch_len(tape, workers),
            Kernel::Reduce(reduce) => reduce.scratch_len(workers),
            Kernel::MatMul(product, _) => matmul::scratch_len(product, workers),
            Kernel::Conv2d(g, _) => conv2d::scratch_len(g, workers),
            Kernel::Conv2dInputGrad(g, _) => conv2d_input_grad::scratch_len(g, workers),
            Kernel::Conv2dFilterGrad(g) => conv2d_filter_grad::scratch_len(g, workers),
            Kernel::Update { update, len, .. } => update::scratch_len(update.prior, *len),
            _ => 0,
        }
    }

    /// Elements of scratch a launch needs.
    pub fn scratch_len(&self, workers: usize) -> usize {
        let epilogue = self.epilogue().map_or(0, |fused| map::scratch_len(&fused.tape, workers));
        self.own_scratch_len(workers).next_multiple_of(16) + epilogue
    }

    /// Lengths of the operands and of the results.
    pub fn binding_lens(&self) -> (Lens, Lens) {
        let (mut reads, mut writes) = self.own_binding_lens();
        if let Some(fused) = self.epilogue() {
            let lens = fused.tape.operand_lens().enumerate();
            reads.extend(lens.filter(|&(operand, _)| operand != fused.own).map(|(_, len)| len));
            let kept = usize::from(fused.replaces.is_none());
            writes = vec![writes[0]; fused.tape.results.len() + kept];
        }
        (reads, writes)
    }

    fn own_binding_lens(&self) -> (Lens, Lens) {
        let lens = |reads: &[usize], write: usize| {
            (reads.iter().map(|&len| Some(len)).collect(), vec![Some(write)])
        };
        match self {
            Kernel::Map(tape) => (tape.operand_lens().collect(), vec![Some(tape.len())]),
            Kernel::Reduce(r) => (r.tape.operand_lens().collect(), vec![Some(r.output_len())]),
            Kernel::MatMul(p, _) => {
                lens(&[p.batch * p.m * p.k, p.batch * p.k * p.n], p.batch * p.m * p.n)
            }
            Kernel::Conv2d(g, _) => {
                lens(&[g.input_shape().len(), g.filter_shape().len()], g.output_shape().len())
            }
            Kernel::Conv2dInputGrad(g, _) => {
                lens(&[g.output_shape().len(), g.filter_shape().len()], g.input_shape().len())
            }
            Kernel::Conv2dFilterGrad(g) => {
                lens(&[g.input_shape().len(), g.output_shape().len()], g.filter_shape().len())
            }
            Kernel::MaxPool(g) | Kernel::SumPool(g) => {
                lens(&[g.input_shape().len()], g.output_shape().len())
            }
            Kernel::MaxPoolGrad(g) => {
                lens(&[g.input_shape().len(), g.output_shape().len()], g.input_shape().len())
            }
            Kernel::SumPoolGrad(g) => lens(&[g.output_shape().len()], g.input_shape().len()),
            Kernel::Softmax { rows, columns } | Kernel::LogSoftmax { rows, columns } => {
                lens(&[rows * columns], rows * columns)
            }
            Kernel::Transpose { shape, .. } => lens(&[shape.len()], shape.len()),
            Kernel::Slice { shape, slice } => {
                lens(&[shape.len()], shape.with(slice.axis, slice.count()).len())
            }
            Kernel::Pad { shape, axes } => {
                let padded = shape.iter().zip(axes).map(|(&e, pad)| pad.padded(e)).product();
                lens(&[shape.len()], padded)
            }
            Kernel::Concat { shapes, .. } => {
                let each: Vec<usize> = shapes.iter().map(Shape::len).collect();
                lens(&each, each.iter().sum())
            }
            Kernel::Gather { shape, indices } => {
                lens(&[shape.len()], shape.with(indices.axis, indices.rows.len()).len())
            }
            Kernel::ScatterAdd { shape, indices } => {
                lens(&[shape.with(indices.axis, indices.rows.len()).len()], shape.len())
            }
            Kernel::Update { update, len, rank } => update_lens(update, *len, *rank),
        }
    }

    /// Floating-point operations of a launch, multiply-adds counted as two.
    pub fn flops(&self) -> u64 {
        let own = match self {
            Kernel::MatMul(p, _) => 2 * p.batch * p.m * p.n * p.k,
            Kernel::Conv2d(g, _) | Kernel::Conv2dInputGrad(g, _) | Kernel::Conv2dFilterGrad(g) => {
                2 * g.multiply_adds()
            }
            Kernel::Map(tape) => tape.operations() * tape.len(),
            Kernel::Reduce(r) => (r.tape.operations() + 1) * r.tape.len(),
            Kernel::Update { len, rank, .. } => len * (10 + 4 * rank),
            _ => 0,
        };
        let epilogue = self.epilogue().map_or(0, |f| f.tape.operations() * f.tape.len());
        (own + epilogue) as u64
    }
}

fn update_lens(update: &Update, len: usize, rank: usize) -> (Lens, Lens) {
    let moments = update.method.moments().len();
    let mut reads = vec![Some(len), Some(len), Some(Hyper::COUNT), Some(1)];
    reads.extend(vec![Some(len); moments]);
    let prior: &[usize] = match update.prior {
        PriorTerm::None | PriorTerm::Isotropic { centred: false } => &[],
        PriorTerm::Isotropic { centred: true } => &[len],
        PriorTerm::Diagonal => &[len, len],
        PriorTerm::LowRank { .. } => &[len, len, rank * len, rank],
    };
    reads.extend(prior.iter().map(|&len| Some(len)));
    let mut writes = vec![Some(len); 1 + moments];
    if update.prior.sums() > 0 {
        writes.push(Some(update.prior.sums()));
    }
    (reads, writes)
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Kernel::Map(tape) => write!(f, "[{} ops]", tape.operations())?,
            Kernel::Reduce(reduce) => write!(f, "[{} ops]", reduce.tape.operations())?,
            Kernel::MatMul(p, _) => write!(f, "[{}x {}x{}x{}]", p.batch, p.m, p.k, p.n)?,
            Kernel::Conv2d(g, _) | Kernel::Conv2dInputGrad(g, _) | Kernel::Conv2dFilterGrad(g) => {
                write!(f, "[{g}]")?;
            }
            Kernel::Update { update, .. } => write!(f, "[{update}]")?,
            _ => {}
        }
        match self.epilogue() {
            Some(fused) => write!(f, "+tape[{} ops]", fused.tape.operations()),
            None => Ok(()),
        }
    }
}
