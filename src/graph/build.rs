//! The builder: one method for each op, then sugar.
//!
//! Each method checks its operands by the op's shape rule and returns the new value. Constants
//! combine where the result is obvious (`x + 0`, `x · 1`), so that rules may be written plainly.

use super::op::{
    Binary, Conv2d, Indices, Leaf, LeafKind, MatMul, Op, PadAxis, Pool2d, Reduction, Slice, Unary,
    Update,
};
use super::shape::infer;
use super::{Graph, Node, NodeId, Value, ValueId};
use crate::error::{Context, Error, Result};
use crate::tensor::{Shape, Tensor, tensor};

impl Graph {
    /// Adds a node and returns its results.
    ///
    /// # Errors
    /// When the operands do not fit the op's shape rule; the error names op, shapes and origin.
    pub fn push(&mut self, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        let shapes: Vec<&Shape> = inputs.iter().map(|&input| self.shape(input)).collect();
        let origin = &self.origin;
        let results = infer(&op, &shapes).context(|| format!("node '{origin}'"))?;
        let node = NodeId(self.nodes.len() as u32);
        let outputs: Vec<ValueId> = results
            .into_iter()
            .map(|shape| {
                self.values.push(Value { shape, node });
                ValueId(self.values.len() as u32 - 1)
            })
            .collect();
        self.nodes.push(Node {
            op,
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
            origin: self.origin.clone(),
            stage: self.stage,
        });
        Ok(outputs)
    }

    fn push1(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        self.push(op, inputs).map(|outputs| outputs[0])
    }

    /// A leaf; asking again for the same kind and name gives the same value.
    ///
    /// # Errors
    /// When it exists with another shape.
    pub fn add_leaf(&mut self, kind: LeafKind, name: &str, shape: &Shape) -> Result<ValueId> {
        if let Some(value) = self.leaf(kind, name) {
            if self.shape(value) != shape {
                let message =
                    format!("leaf '{name}' has shape {} already, not {shape}", self.shape(value));
                return Err(Error::internal(message));
            }
            return Ok(value);
        }
        let node = NodeId(self.nodes.len() as u32);
        let value = ValueId(self.values.len() as u32);
        let op = Op::Leaf(Leaf { kind, name: name.to_string() });
        self.values.push(Value { shape: shape.clone(), node });
        self.nodes.push(Node {
            op,
            inputs: vec![],
            outputs: vec![value],
            origin: name.to_string(),
            stage: self.stage,
        });
        Ok(value)
    }

    /// A value written before each run.
    pub fn input(&mut self, name: &str, shape: &Shape) -> Result<ValueId> {
        self.add_leaf(LeafKind::Input, name, shape)
    }

    /// A model weight.
    pub fn param(&mut self, name: &str, shape: &Shape) -> Result<ValueId> {
        self.add_leaf(LeafKind::Param, name, shape)
    }

    /// Resident state that is not part of the model.
    pub fn state(&mut self, name: &str, shape: &Shape) -> Result<ValueId> {
        self.add_leaf(LeafKind::State, name, shape)
    }

    /// A constant.
    pub fn constant(&mut self, value: Tensor) -> Result<ValueId> {
        self.push1(Op::Const(value), &[])
    }

    /// A constant with every element equal, of `shape`.
    pub fn splat(&mut self, value: f32, shape: &Shape) -> Result<ValueId> {
        let ones = vec![1; shape.ndim()];
        let scalar = self.constant(tensor(&ones, vec![value])?)?;
        self.broadcast(scalar, shape)
    }

    /// The value of `id` when it is a constant with all elements equal.
    pub fn splat_value(&self, id: ValueId) -> Option<f32> {
        match &self.producer(id).op {
            Op::Const(t) if t.len() == 1 => t.first().copied(),
            Op::Broadcast(_) | Op::Reshape(_) => self.splat_value(self.producer(id).inputs[0]),
            _ => None,
        }
    }

    /// An element-wise function.
    pub fn unary(&mut self, f: Unary, x: ValueId) -> Result<ValueId> {
        self.push1(Op::Unary(f), &[x])
    }

    /// An element-wise function of two values of equal shape.
    pub fn binary(&mut self, f: Binary, a: ValueId, b: ValueId) -> Result<ValueId> {
        let same = self.shape(a) == self.shape(b);
        match (f, self.splat_value(a), self.splat_value(b)) {
            (Binary::Add | Binary::Sub, _, Some(0.0)) if same => Ok(a),
            (Binary::Mul | Binary::Div, _, Some(1.0)) if same => Ok(a),
            (Binary::Add, Some(0.0), _) | (Binary::Mul, Some(1.0), _) if same => Ok(b),
            _ => self.push1(Op::Binary(f), &[a, b]),
        }
    }

    /// a + b
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.binary(Binary::Add, a, b)
    }

    /// a - b
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.binary(Binary::Sub, a, b)
    }

    /// a · b
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.binary(Binary::Mul, a, b)
    }

    /// a / b
    pub fn div(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.binary(Binary::Div, a, b)
    }

    /// `a` where `cond` is not 0, else `b`.
    pub fn select(&mut self, cond: ValueId, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.push1(Op::Select, &[cond, a, b])
    }

    /// `x` repeated to `shape` along its axes of extent 1.
    pub fn broadcast(&mut self, x: ValueId, shape: &Shape) -> Result<ValueId> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        self.push1(Op::Broadcast(shape.clone()), &[x])
    }

    /// The elements of `x` under another shape.
    pub fn reshape(&mut self, x: ValueId, shape: &Shape) -> Result<ValueId> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        if let Op::Reshape(_) = self.producer(x).op {
            let inner = self.producer(x).inputs[0];
            return self.reshape(inner, shape);
        }
        self.push1(Op::Reshape(shape.clone()), &[x])
    }

    /// Axis `i` of the result is axis `perm[i]` of `x`.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Result<ValueId> {
        if perm.iter().enumerate().all(|(i, &p)| i == p) && perm.len() == self.shape(x).ndim() {
            return Ok(x);
        }
        self.push1(Op::Transpose(perm.to_vec()), &[x])
    }

    /// Every `step`-th index of a range of one axis.
    pub fn slice(&mut self, x: ValueId, slice: Slice) -> Result<ValueId> {
        self.push1(Op::Slice(slice), &[x])
    }

    /// Zeros around and between the elements.
    pub fn pad(&mut self, x: ValueId, axes: &[PadAxis]) -> Result<ValueId> {
        self.push1(Op::Pad(axes.to_vec()), &[x])
    }

    /// Values joined along `axis`.
    pub fn concat(&mut self, parts: &[ValueId], axis: usize) -> Result<ValueId> {
        match parts {
            [one] => Ok(*one),
            _ => self.push1(Op::Concat(axis), parts),
        }
    }

    /// Rows of one axis.
    pub fn gather(&mut self, x: ValueId, indices: Indices) -> Result<ValueId> {
        self.push1(Op::Gather(indices), &[x])
    }

    /// Rows added into a zero tensor whose axis has `extent`.
    pub fn scatter_add(&mut self, x: ValueId, indices: Indices, extent: usize) -> Result<ValueId> {
        self.push1(Op::ScatterAdd(indices, extent), &[x])
    }

    /// A reduction; `axes` keep extent 1.
    pub fn reduce(&mut self, how: Reduction, x: ValueId, axes: &[usize]) -> Result<ValueId> {
        let mut axes: Vec<usize> = axes.to_vec();
        axes.sort_unstable();
        axes.dedup();
        let shape = self.shape(x);
        if axes.iter().all(|&axis| shape.get(axis) == Some(&1)) {
            return Ok(x);
        }
        self.push1(Op::Reduce(how, axes), &[x])
    }

    /// Σ over `axes`, which keep extent 1.
    pub fn sum(&mut self, x: ValueId, axes: &[usize]) -> Result<ValueId> {
        self.reduce(Reduction::Sum, x, axes)
    }

    /// Σ over everything, of shape `[1]`.
    pub fn sum_all(&mut self, x: ValueId) -> Result<ValueId> {
        let axes: Vec<usize> = (0..self.shape(x).ndim()).collect();
        let sum = self.sum(x, &axes)?;
        self.reshape(sum, &[1].into())
    }

    /// Σ of the broadcast axes of `x` down to `shape`, the inverse of [`Graph::broadcast`].
    pub fn sum_to(&mut self, x: ValueId, shape: &Shape) -> Result<ValueId> {
        let axes: Vec<usize> = (0..shape.ndim())
            .filter(|&axis| shape[axis] == 1 && self.shape(x)[axis] != 1)
            .collect();
        self.sum(x, &axes)
    }

    /// A batched matrix product.
    pub fn matmul(&mut self, a: ValueId, b: ValueId, how: MatMul) -> Result<ValueId> {
        self.push1(Op::MatMul(how), &[a, b])
    }

    /// A convolution.
    pub fn conv2d(&mut self, x: ValueId, w: ValueId, geometry: Conv2d) -> Result<ValueId> {
        self.push1(Op::Conv2d(geometry), &[x, w])
    }

    /// The cotangent of a convolution's input.
    pub fn conv2d_input_grad(&mut self, ct: ValueId, w: ValueId, g: Conv2d) -> Result<ValueId> {
        self.push1(Op::Conv2dInputGrad(g), &[ct, w])
    }

    /// The cotangent of a convolution's filter.
    pub fn conv2d_filter_grad(&mut self, x: ValueId, ct: ValueId, g: Conv2d) -> Result<ValueId> {
        self.push1(Op::Conv2dFilterGrad(g), &[x, ct])
    }

    /// The largest element of each window.
    pub fn max_pool(&mut self, x: ValueId, geometry: Pool2d) -> Result<ValueId> {
        self.push1(Op::MaxPool(geometry), &[x])
    }

    /// The cotangent of a max pool's input.
    pub fn max_pool_grad(&mut self, x: ValueId, ct: ValueId, g: Pool2d) -> Result<ValueId> {
        self.push1(Op::MaxPoolGrad(g), &[x, ct])
    }

    /// The sum of each window.
    pub fn sum_pool(&mut self, x: ValueId, geometry: Pool2d) -> Result<ValueId> {
        self.push1(Op::SumPool(geometry), &[x])
    }

    /// The cotangent of a sum pool's input.
    pub fn sum_pool_grad(&mut self, ct: ValueId, geometry: Pool2d) -> Result<ValueId> {
        self.push1(Op::SumPoolGrad(geometry), &[ct])
    }

    /// Softmax over the last axis.
    pub fn softmax(&mut self, x: ValueId) -> Result<ValueId> {
        self.push1(Op::Softmax, &[x])
    }

    /// Log-softmax over the last axis.
    pub fn log_softmax(&mut self, x: ValueId) -> Result<ValueId> {
        self.push1(Op::LogSoftmax, &[x])
    }

    /// A parameter's optimiser step; see [`Update`] for operands and results.
    pub fn update(&mut self, update: Update, operands: &[ValueId]) -> Result<Vec<ValueId>> {
        self.push(Op::Update(update), operands)
    }

    /// x · c
    pub fn scale(&mut self, x: ValueId, c: f32) -> Result<ValueId> {
        let shape = self.shape(x).clone();
        let c = self.splat(c, &shape)?;
        self.mul(x, c)
    }

    /// x + c
    pub fn shift(&mut self, x: ValueId, c: f32) -> Result<ValueId> {
        let shape = self.shape(x).clone();
        let c = self.splat(c, &shape)?;
        self.add(x, c)
    }

    /// Mean over `axes`, which keep extent 1.
    pub fn mean(&mut self, x: ValueId, axes: &[usize]) -> Result<ValueId> {
        let sum = self.sum(x, axes)?;
        let count: usize = axes.iter().map(|&axis| self.shape(x)[axis]).product();
        self.scale(sum, 1.0 / count as f32)
    }

    /// NumPy's broadcasting: the operands under their common shape.
    ///
    /// # Errors
    /// When two extents differ and neither is 1.
    pub fn broadcast_together(&mut self, operands: &[ValueId]) -> Result<Vec<ValueId>> {
        let ndim = operands.iter().map(|&v| self.shape(v).ndim()).max().unwrap_or(0);
        let mut lifted = Vec::new();
        for &value in operands {
            let mut extents = vec![1; ndim - self.shape(value).ndim()];
            extents.extend_from_slice(self.shape(value));
            lifted.push(self.reshape(value, &extents.into())?);
        }
        let common: Shape = (0..ndim)
            .map(|axis| {
                let extents = lifted.iter().map(|&v| self.shape(v)[axis]);
                extents.fold(1, |common, e| if common == 1 { e } else { common })
            })
            .collect::<Vec<_>>()
            .into();
        lifted.into_iter().map(|value| self.broadcast(value, &common)).collect()
    }
}
