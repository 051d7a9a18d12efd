//! Normalisations whose lowering in tract does not fit.
//!
//! tract lowers BatchNormalization only with constant weights, and trusts the axis of
//! LayerNormalization. Both are spelled out here in tract's core ops, weights being any values.

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::math::{add, mul, rsqrt, sub};
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer};
use tract_onnx::tract_hir::internal::*;

/// What ONNX assumes when a file gives no epsilon.
const EPSILON: f32 = 1e-5;

type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// Puts the lowerings of this file in the place of tract's.
pub(super) fn register(ops: &mut OnnxOpRegister) {
    ops.insert("BatchNormalization", batch_norm);
    ops.insert("LayerNormalization", layer_norm);
}

fn results(node: &NodeProto) -> usize {
    node.output.iter().filter(|output| !output.is_empty()).count()
}

fn batch_norm(_context: &ParsingContext, node: &NodeProto) -> Built {
    let training = node.get_attr_opt::<i64>("training_mode")?.unwrap_or(0) != 0;
    if training || results(node) != 1 {
        bail!("BatchNormalization in training mode; export the model in evaluation mode");
    }
    let epsilon = node.get_attr_opt("epsilon")?.unwrap_or(EPSILON);
    Ok((expand(BatchNorm { epsilon }), vec![]))
}

fn layer_norm(_context: &ParsingContext, node: &NodeProto) -> Built {
    if results(node) != 1 {
        bail!("LayerNormalization with its statistics as results");
    }
    let axis = node.get_attr_opt("axis")?.unwrap_or(-1);
    let epsilon = node.get_attr_opt("epsilon")?.unwrap_or(EPSILON);
    Ok((expand(LayerNorm { axis, epsilon }), vec![]))
}

/// y = x a + (β - μ a) with a = γ/√(σ² + ε) for each channel; μ, σ² are running statistics.
#[derive(Debug, Clone)]
struct BatchNorm {
    epsilon: f32,
}

impl Expansion for BatchNorm {
    fn name(&self) -> StaticName {
        "BatchNormalization".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 5)?;
        check_output_arity(outputs, 1)?;
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)?;
        for weight in &inputs[1..] {
            solver.equals(&weight.datum_type, &inputs[0].datum_type)?;
            solver.equals(&weight.rank, 1)?;
            solver.equals(&weight.shape[0], &inputs[0].shape[1])?;
        }
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let [x, scale, shift, mean, variance] = *inputs else { bail!("five operands expected") };
        let rank = model.outlet_fact(x)?.rank();
        if rank < 2 {
            bail!("BatchNormalization of {rank} dimensions");
        }
        let name = |part: &str| format!("{prefix}.{part}");
        let epsilon = model.add_const(name("epsilon"), tensor1(&[self.epsilon]))?;
        let shifted = model.wire_node(name("variance"), add(), &[variance, epsilon])?[0];
        let inverse = model.wire_node(name("inverse"), rsqrt(), &[shifted])?[0];
        let slope = model.wire_node(name("slope"), mul(), &[scale, inverse])?[0];
        let moved = model.wire_node(name("moved"), mul(), &[mean, slope])?[0];
        let offset = model.wire_node(name("offset"), sub(), &[shift, moved])?[0];
        let channels = (0..rank).filter(|&axis| axis != 1);
        let slope = with_axes(model, name("slope"), slope, channels.clone())?;
        let offset = with_axes(model, name("offset"), offset, channels)?;
        let scaled = model.wire_node(name("scaled"), mul(), &[x, slope])?[0];
        model.wire_node(prefix, add(), &[scaled, offset])
    }
}

/// `value` with axes of extent 1 added at these places, in order.
fn with_axes(
    model: &mut TypedModel,
    name: String,
    mut value: OutletId,
    axes: impl Iterator<Item = usize>,
) -> TractResult<OutletId> {
    for (count, axis) in axes.enumerate() {
        value = model.wire_node(format!("{name}.axis_{count}"), AxisOp::Add(axis), &[value])?[0];
    }
    Ok(value)
}

/// y = γ (x - μ)/√(σ² + ε) + β over the axes from `axis` on.
#[derive(Debug, Clone)]
struct LayerNorm {
    axis: i64,
    epsilon: f32,
}

impl Expansion for LayerNorm {
    fn name(&self) -> StaticName {
        "LayerNormalization".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_output_arity(outputs, 1)?;
        if !(2..=3).contains(&inputs.len()) {
            bail!("LayerNormalization of {} operands", inputs.len());
        }
        for weight in &inputs[1..] {
            solver.equals(&weight.datum_type, &inputs[0].datum_type)?;
        }
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.clone();
        let rank = shape.rank();
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        let Some(first) = usize::try_from(axis).ok().filter(|&axis| axis < rank) else {
            bail!("LayerNormalization from axis {} of {rank} dimensions", self.axis);
        };
        let name = |part: &str| format!("{prefix}.{part}");
        let axes: TVec<usize> = (first..rank).collect();
        let count: TDim = shape[first..].iter().product();
        let share = tensor0(1.0 / count.to_usize()? as f32).broadcast_into_rank(rank)?;
        let share = model.add_const(name("share"), share)?;
        let epsilon = tensor0(self.epsilon).broadcast_into_rank(rank)?;
        let epsilon = model.add_const(name("epsilon"), epsilon)?;
        let sum = Reduce::new(axes.clone(), Reducer::Sum);
        let sum = model.wire_node(name("sum"), sum, &[inputs[0]])?[0];
        let mean = model.wire_node(name("mean"), mul(), &[sum, share])?[0];
        let centred = model.wire_node(name("centred"), sub(), &[inputs[0], mean])?[0];
        let variance = Reduce::new(axes, Reducer::MeanOfSquares);
        let variance = model.wire_node(name("variance"), variance, &[centred])?[0];
        let shifted = model.wire_node(name("shifted"), add(), &[variance, epsilon])?[0];
        let inverse = model.wire_node(name("inverse"), rsqrt(), &[shifted])?[0];
        let mut value = model.wire_node(name("normal"), mul(), &[centred, inverse])?[0];
        for (&weight, (op, part)) in inputs[1..].iter().zip([(mul(), "scaled"), (add(), "moved")]) {
            let missing = rank.saturating_sub(model.outlet_fact(weight)?.rank());
            let zeros = std::iter::repeat_n(0, missing);
            let weight = with_axes(model, name(&format!("{part}.weight")), weight, zeros)?;
            value = model.wire_node(name(part), op, &[value, weight])?[0];
        }
        Ok(tvec!(value))
    }
}
