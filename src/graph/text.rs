//! The text form: a whole graph, one line a node, for reading, bug reports and golden tests.
//!
//! ```text
//! %3 = conv2d(%0, %2) 3x3 stride 1x1 pad 1x1 : [8,16,32,32]   # stem.conv
//! ```

use std::fmt;

use super::op::{Binary, Conv2d, LeafKind, Op, Pool2d, PriorTerm, Reduction, Unary, Update};
use super::{Graph, Node, ValueId};

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in self.nodes() {
            write_node(self, node, f)?;
        }
        for (name, value) in self.outputs() {
            writeln!(f, "output {name} = {value}")?;
        }
        for transition in self.transitions() {
            writeln!(f, "next {} = {}", transition.leaf, transition.next)?;
        }
        Ok(())
    }
}

fn write_node(graph: &Graph, node: &Node, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let list = |ids: &[ValueId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    write!(f, "{} = {}", list(&node.outputs), node.op.name())?;
    if !node.inputs.is_empty() {
        write!(f, "({})", list(&node.inputs))?;
    }
    let attributes = Attributes(&node.op).to_string();
    if !attributes.is_empty() {
        write!(f, " {attributes}")?;
    }
    let shapes: Vec<_> = node.outputs.iter().map(|&v| graph.shape(v).to_string()).collect();
    write!(f, " : {}", shapes.join(", "))?;
    match &node.op {
        Op::Leaf(_) => writeln!(f),
        _ if node.origin.is_empty() => writeln!(f),
        _ => writeln!(f, "   # {}", node.origin),
    }
}

impl Op {
    /// The op's name in text and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Leaf(leaf) => match leaf.kind {
                LeafKind::Input => "input",
                LeafKind::Param => "param",
                LeafKind::State => "state",
            },
            Op::Const(_) => "const",
            Op::Unary(f) => f.name(),
            Op::Binary(f) => f.name(),
            Op::Select => "select",
            Op::Broadcast(_) => "broadcast",
            Op::Reshape(_) => "reshape",
            Op::Transpose(_) => "transpose",
            Op::Slice(_) => "slice",
            Op::Pad(_) => "pad",
            Op::Concat(_) => "concat",
            Op::Gather(_) => "gather",
            Op::ScatterAdd(..) => "scatter_add",
            Op::Reduce(Reduction::Sum, _) => "sum",
            Op::Reduce(Reduction::Max, _) => "reduce_max",
            Op::MatMul(_) => "matmul",
            Op::Conv2d(_) => "conv2d",
            Op::Conv2dInputGrad(_) => "conv2d_input_grad",
            Op::Conv2dFilterGrad(_) => "conv2d_filter_grad",
            Op::MaxPool(_) => "max_pool",
            Op::MaxPoolGrad(_) => "max_pool_grad",
            Op::SumPool(_) => "sum_pool",
            Op::SumPoolGrad(_) => "sum_pool_grad",
            Op::Softmax => "softmax",
            Op::LogSoftmax => "log_softmax",
            Op::Update(update) => match update.method {
                super::Method::Sgd { .. } => "sgd",
                super::Method::AdamW => "adamw",
                super::Method::Sgld { preconditioned: false, .. } => "sgld",
                super::Method::Sgld { preconditioned: true, .. } => "sgld_preconditioned",
                super::Method::Sghmc { preconditioned: false, .. } => "sghmc",
                super::Method::Sghmc { preconditioned: true, .. } => "sghmc_preconditioned",
            },
        }
    }
}

impl Unary {
    /// Its name in text.
    pub fn name(&self) -> &'static str {
        match self {
            Unary::Neg => "neg",
            Unary::Abs => "abs",
            Unary::Sign => "sign",
            Unary::Exp => "exp",
            Unary::Log => "log",
            Unary::Sqrt => "sqrt",
            Unary::Rsqrt => "rsqrt",
            Unary::Recip => "recip",
            Unary::Tanh => "tanh",
            Unary::Erf => "erf",
            Unary::Sigmoid => "sigmoid",
            Unary::Gelu => "gelu",
            Unary::GeluSlope => "gelu_slope",
            Unary::Relu => "relu",
            Unary::Clamp(..) => "clamp",
            Unary::Powf(_) => "powf",
        }
    }
}

impl Binary {
    /// Its name in text.
    pub fn name(&self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Max => "max",
            Binary::Min => "min",
            Binary::Less => "less",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attributes = Attributes(self).to_string();
        if attributes.is_empty() {
            return f.write_str(self.name());
        }
        write!(f, "{} {attributes}", self.name())
    }
}

/// The constant arguments of an op, without its name.
struct Attributes<'a>(&'a Op);

impl fmt::Display for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Op::Leaf(leaf) => write!(f, "\"{}\"", leaf.name),
            Op::Const(t) if t.len() == 1 => write!(f, "{:?}", t.first().copied().unwrap_or(0.0)),
            Op::Unary(Unary::Clamp(lo, hi)) => write!(f, "{lo:?}..{hi:?}"),
            Op::Unary(Unary::Powf(exponent)) => write!(f, "{exponent:?}"),
            Op::Transpose(perm) => write!(f, "{perm:?}"),
            Op::Slice(s) => write!(f, "axis {} {}..{} step {}", s.axis, s.start, s.end, s.step),
            Op::Pad(axes) => {
                let axes: Vec<_> =
                    axes.iter().map(|p| format!("{}+{}+{}", p.low, p.interior, p.high)).collect();
                f.write_str(&axes.join(" "))
            }
            Op::Concat(axis) => write!(f, "axis {axis}"),
            Op::Gather(i) => write!(f, "axis {} {} rows", i.axis, i.rows.len()),
            Op::ScatterAdd(i, extent) => {
                write!(f, "axis {} {} rows to {extent}", i.axis, i.rows.len())
            }
            Op::Reduce(_, axes) => write!(f, "{axes:?}"),
            Op::MatMul(how) => write_matmul(how, f),
            Op::Conv2d(g) | Op::Conv2dInputGrad(g) | Op::Conv2dFilterGrad(g) => g.fmt(f),
            Op::MaxPool(g) | Op::MaxPoolGrad(g) | Op::SumPool(g) | Op::SumPoolGrad(g) => g.fmt(f),
            Op::Update(update) => update.prior.fmt(f),
            _ => Ok(()),
        }
    }
}

fn write_matmul(how: &super::MatMul, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(match (how.transpose_a, how.transpose_b) {
        (false, false) => "",
        (true, false) => "aT b",
        (false, true) => "a bT",
        (true, true) => "aT bT",
    })
}

impl fmt::Display for Conv2d {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kh, kw] = self.kernel;
        write!(f, "{kh}x{kw} stride {}x{}", self.stride[0], self.stride[1])?;
        write!(f, " pad {}x{}", self.pad[0], self.pad[1])?;
        if self.dilation != [1, 1] {
            write!(f, " dilation {}x{}", self.dilation[0], self.dilation[1])?;
        }
        if self.groups != 1 {
            write!(f, " groups {}", self.groups)?;
        }
        Ok(())
    }
}

impl fmt::Display for Pool2d {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kh, kw] = self.kernel;
        write!(f, "{kh}x{kw} stride {}x{}", self.stride[0], self.stride[1])?;
        write!(f, " pad {}x{}", self.pad[0], self.pad[1])
    }
}

impl fmt::Display for PriorTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PriorTerm::None => f.write_str("no prior"),
            PriorTerm::Isotropic { centred: false } => f.write_str("isotropic prior at 0"),
            PriorTerm::Isotropic { centred: true } => f.write_str("isotropic prior at its mean"),
            PriorTerm::Diagonal => f.write_str("diagonal prior"),
            PriorTerm::LowRank { rank } => write!(f, "low-rank prior K={rank}"),
        }
    }
}

impl fmt::Display for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Op::Update(*self))
    }
}
