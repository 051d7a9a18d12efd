//! Shapes and host tensors.
//!
//! A [`Tensor`] is a row-major `f32` array on [`ndarray`] whose clones share their data. Shapes
//! that come from files go through [`Shape::checked_len`] before anything is allocated.

use std::fmt;

use ndarray::{ArcArray, IxDyn};

use crate::error::{Error, Result};

/// A host tensor: shared, row-major, dynamic number of dimensions.
pub type Tensor = ArcArray<f32, IxDyn>;

/// The extents of a tensor, outermost first. A scalar has none.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// The shape with these extents.
    pub fn new(extents: impl Into<Vec<usize>>) -> Self {
        Shape(extents.into())
    }

    /// The shape of a scalar.
    pub fn scalar() -> Self {
        Shape(Vec::new())
    }

    /// Number of dimensions.
    pub fn ndim(&self) -> usize {
        self.0.len()
    }

    /// Number of elements. Shapes inside the crate are known to fit; see [`Shape::checked_len`].
    pub fn len(&self) -> usize {
        self.0.iter().product()
    }

    /// True when some extent is zero.
    pub fn is_empty(&self) -> bool {
        self.0.contains(&0)
    }

    /// Number of elements of a shape from outside, or an error when it overflows `isize`.
    pub fn checked_len(&self) -> Result<usize> {
        self.0
            .iter()
            .try_fold(1usize, |len, &extent| len.checked_mul(extent))
            .filter(|&len| len <= isize::MAX as usize / 4)
            .ok_or_else(|| Error::malformed(format!("shape {self} has too many elements")))
    }

    /// Row-major strides in elements.
    pub fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1; self.0.len()];
        for axis in (1..self.0.len()).rev() {
            strides[axis - 1] = strides[axis] * self.0[axis];
        }
        strides
    }

    /// The same shape with `extent` at `axis`.
    #[must_use]
    pub fn with(&self, axis: usize, extent: usize) -> Self {
        let mut shape = self.clone();
        shape.0[axis] = extent;
        shape
    }
}

impl std::ops::Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl From<&[usize]> for Shape {
    fn from(extents: &[usize]) -> Self {
        Shape(extents.to_vec())
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(extents: [usize; N]) -> Self {
        Shape(extents.to_vec())
    }
}

impl From<Vec<usize>> for Shape {
    fn from(extents: Vec<usize>) -> Self {
        Shape(extents)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (axis, extent) in self.0.iter().enumerate() {
            let separator = if axis == 0 { "" } else { "," };
            write!(f, "{separator}{extent}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A tensor of `shape` holding `data` in row-major order.
///
/// # Errors
/// When the number of elements differs from the shape's.
pub fn tensor(shape: &[usize], data: Vec<f32>) -> Result<Tensor> {
    let len = data.len();
    Tensor::from_shape_vec(IxDyn(shape), data).map_err(|_| {
        Error::mismatch(format!("{len} elements do not fill shape {}", Shape::from(shape)))
    })
}

/// The elements of a tensor in row-major order, copied only when it is a strided view.
pub fn contiguous(tensor: &Tensor) -> std::borrow::Cow<'_, [f32]> {
    match tensor.as_slice() {
        Some(slice) => slice.into(),
        None => tensor.iter().copied().collect::<Vec<_>>().into(),
    }
}
