//! The uniforms of each shader, as Rust lays them out.
//!
//! A test reflects the shaders and compares names, offsets and sizes with these.

use bytemuck::{Pod, Zeroable};

/// A struct that a shader reads as a uniform.
pub(super) trait Uniform: Pod {
    /// Names and offsets of its fields.
    #[cfg_attr(not(test), expect(dead_code, reason = "what a test compares with the shaders"))]
    const FIELDS: &'static [(&'static str, usize)];
}

macro_rules! uniform {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Pod, Zeroable)]
        pub(super) struct $name {
            $(pub(super) $field: $type),*
        }

        impl Uniform for $name {
            const FIELDS: &'static [(&'static str, usize)] =
                &[$((stringify!($field), std::mem::offset_of!($name, $field))),*];
        }
    };
}

/// One number for each of up to eight axes.
pub(super) type Axes = [u32; 8];

uniform! {
    /// The iteration space of a tape: `shaders/shared/space.wgsl`.
    Space {
        base: u32,
        rank: u32,
        spare: [u32; 2],
        origins: Axes,
        extents: Axes,
        strides: [Axes; 8],
        constants: [f32; 32],
    }
}

uniform! {
    /// `map`
    Map { len: u32, skipped: u32, spare1: u32, spare2: u32 }
}

uniform! {
    /// What a launch sees of its operand and its result: `shaders/shared/part.wgsl`.
    Part { first: u32, len: u32, other_first: u32, other_len: u32 }
}

uniform! {
    /// `transpose`, `slice`
    Strided {
        part: Part,
        rank: u32,
        start: u32,
        spare: [u32; 2],
        extents: Axes,
        strides: Axes,
    }
}

uniform! {
    /// `pad`
    Pad {
        part: Part,
        rank: u32,
        spare0: u32,
        spare1: u32,
        spare2: u32,
        padded: Axes,
        extents: Axes,
        low: Axes,
        step: Axes,
    }
}

uniform! {
    /// `concat`
    Concat { part: Part, run: u32, start: u32, row_len: u32, spare: u32 }
}

uniform! {
    /// `gather`, `scatter_add`
    Rows { part: Part, extent: u32, count: u32, inner: u32, joins: u32 }
}

uniform! {
    /// The pools.
    Window {
        len: u32,
        spare: u32,
        input: [u32; 2],
        output: [u32; 2],
        kernel: [u32; 2],
        stride: [u32; 2],
        pad: [u32; 2],
        dilation: [u32; 2],
        first: [u32; 2],
    }
}

uniform! {
    /// `reduce`
    Reduce {
        outputs: u32,
        reduced: u32,
        segment: u32,
        lanes_log: u32,
        inner_kept: u32,
        kept_rank: u32,
        reduced_rank: u32,
        spare: u32,
        first: u32,
        out_first: u32,
        joins: u32,
        spare1: u32,
        kept_extents: Axes,
        kept_strides: Axes,
        reduced_extents: Axes,
        reduced_strides: Axes,
    }
}

uniform! {
    /// `softmax`, `log_softmax`
    Softmax {
        rows: u32,
        columns: u32,
        lanes_log: u32,
        spare: u32,
        first: u32,
        spare1: u32,
        spare2: u32,
        spare3: u32,
    }
}

uniform! {
    /// Tiles of a product: `shaders/shared/tiles.wgsl`.
    Tiling {
        rows: u32,
        columns: u32,
        row_tiles: u32,
        column_tiles: u32,
        tiles: u32,
        spare0: u32,
        spare1: u32,
        spare2: u32,
    }
}

uniform! {
    /// `matmul`
    MatMul {
        tiling: Tiling,
        depth: u32,
        a_step: u32,
        a_row: u32,
        a_batch: u32,
        b_step: u32,
        b_column: u32,
        b_batch: u32,
        plane: u32,
        b_image: u32,
        out_row: u32,
        out_image: u32,
        a_first: u32,
        b_first: u32,
        out_first: u32,
        spare0: u32,
        spare1: u32,
    }
}

uniform! {
    /// What convolutions share: `shaders/shared/convolution.wgsl`.
    Geometry {
        batch: u32,
        in_channels: u32,
        out_channels: u32,
        groups: u32,
        input: [u32; 2],
        output: [u32; 2],
        pad: [u32; 2],
        first: [u32; 2],
    }
}

uniform! {
    /// `conv2d`, `conv2d_input_grad`
    Convolution { tiling: Tiling, geometry: Geometry }
}

uniform! {
    /// `conv2d_filter_grad`
    FilterGrad {
        tiling: Tiling,
        geometry: Geometry,
        segments: u32,
        segment: u32,
        filter_len: u32,
        first_segment: u32,
    }
}

uniform! {
    /// `depthwise`, `depthwise_filter_grad`
    Depthwise { geometry: Geometry, len: u32, first: u32, spare1: u32, spare2: u32 }
}

uniform! {
    /// `update`
    Update {
        len: u32,
        first: u32,
        first_block: u32,
        pitch: u32,
        lane: u32,
        spare: u32,
        spare1: u32,
        spare2: u32,
    }
}

/// Up to eight numbers, the rest zero.
///
/// # Panics
/// When there are more than eight; the planner admits no more axes.
pub(super) fn axes(values: impl IntoIterator<Item = usize>) -> Axes {
    let mut axes = Axes::default();
    for (index, value) in values.into_iter().enumerate() {
        axes[index] = value as u32;
    }
    axes
}
