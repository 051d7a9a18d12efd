// Quads: four neighbouring rows or columns of a product, each found on its own. The includer
// defines Row, Column, row_of, column_of, and load_a and load_b, which return 0 outside.

struct Rows {
    a: Row,
    b: Row,
    c: Row,
    d: Row,
}

struct Columns {
    a: Column,
    b: Column,
    c: Column,
    d: Column,
}

fn rows_of(z: u32, row: u32) -> Rows {
    return Rows(row_of(z, row), row_of(z, row + 1u), row_of(z, row + 2u), row_of(z, row + 3u));
}

fn columns_of(z: u32, column: u32) -> Columns {
    return Columns(
        column_of(z, column),
        column_of(z, column + 1u),
        column_of(z, column + 2u),
        column_of(z, column + 3u),
    );
}

fn quad_a(rows: Rows, k: u32) -> vec4<f32> {
    return vec4(load_a(rows.a, k), load_a(rows.b, k), load_a(rows.c, k), load_a(rows.d, k));
}

fn quad_b(columns: Columns, k: u32) -> vec4<f32> {
    return vec4(
        load_b(columns.a, k),
        load_b(columns.b, k),
        load_b(columns.c, k),
        load_b(columns.d, k),
    );
}
