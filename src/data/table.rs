//! `labels.csv`: a table of files with their labels or numbers.
//!
//! The first column holds files, relative to the table's folder. If there is one more column and
//! not all of it is numbers, its cells are labels, several divided by `;`. Else each further
//! column is a number to learn. A first row whose first cell is `file` names the columns; a
//! column named `labels` holds labels even if they look like numbers. Cells with commas stand in
//! double quotes (RFC 4180).

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::targets::Targets;
use crate::error::{Context, Error, Result};

#[cfg(test)]
mod tests;

/// The table's name in a folder of images.
pub(super) const FILE: &str = "labels.csv";
/// The largest table that is read.
const BYTES_MAX: u64 = 256 << 20;

/// A table that has been read.
#[derive(Debug)]
pub(super) struct Table {
    pub files: Vec<PathBuf>,
    pub names: Vec<String>,
    pub targets: Targets,
}

/// Reads the table in `folder`.
///
/// # Errors
/// When it cannot be read, has no rows, or a row is not like the others; the line is named.
pub(super) fn read(folder: &Path) -> Result<Table> {
    let path = folder.join(FILE);
    let bytes = path.metadata().map_err(|e| Error::io("cannot open", &path, e))?.len();
    if bytes > BYTES_MAX {
        let message = format!("{}: a table of {bytes} bytes", path.display());
        return Err(Error::unsupported(message).hint(format!("at most {BYTES_MAX} are read")));
    }
    let bytes = std::fs::read(&path).map_err(|e| Error::io("cannot read", &path, e))?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|e| Error::malformed("the table is not UTF-8 text").caused_by(e));
    text.and_then(|text| parse(text, folder)).context(|| path.display().to_string())
}

fn parse(text: &str, folder: &Path) -> Result<Table> {
    let mut rows = rows(text.strip_prefix('\u{feff}').unwrap_or(text))?;
    let is_header = |row: &Row| row.cells[0].trim().eq_ignore_ascii_case("file");
    let header = rows.first().is_some_and(is_header).then(|| rows.remove(0));
    let Some(width) = rows.first().map(|row| row.cells.len()) else {
        return Err(Error::invalid("the table has no rows").hint("expected file,label or numbers"));
    };
    if width < 2 {
        return Err(Error::invalid("the table has one column; expected file,label or numbers"));
    }
    for row in rows.iter().chain(&header) {
        if row.cells.len() != width {
            let (line, cells) = (row.line, row.cells.len());
            let message = format!("line {line} has {cells} cells; expected {width}");
            return Err(Error::malformed(message).hint("cells with commas need double quotes"));
        }
    }
    let files = rows.iter().map(|row| inside(folder, row)).collect::<Result<_>>()?;
    let is_labels = header.as_ref().is_some_and(|h| h.cells[1].eq_ignore_ascii_case("labels"));
    match width == 2 && (is_labels || rows.iter().any(|row| number(&row.cells[1]).is_none())) {
        true => Ok(labels(files, &rows)),
        false => numbers(files, &rows, header.as_ref()),
    }
}

/// The file a row names, which lies in the table's folder.
fn inside(folder: &Path, row: &Row) -> Result<PathBuf> {
    let file = Path::new(row.cells[0].trim());
    let is_inside = file.components().all(|part| matches!(part, Component::Normal(_)));
    match is_inside && file.components().next().is_some() {
        true => Ok(folder.join(file)),
        false => {
            let message = format!("line {} names the file {:?}", row.line, row.cells[0]);
            Err(Error::malformed(message).hint("expected a path relative to the table, inside"))
        }
    }
}

fn number(cell: &str) -> Option<f32> {
    cell.trim().parse().ok().filter(|x: &f32| x.is_finite())
}

fn parts(cell: &str) -> impl Iterator<Item = &str> {
    cell.split(';').map(str::trim).filter(|label| !label.is_empty())
}

fn labels(files: Vec<PathBuf>, rows: &[Row]) -> Table {
    let names: BTreeSet<&str> = rows.iter().flat_map(|row| parts(&row.cells[1])).collect();
    let mut values = Vec::with_capacity(rows.len() * names.len());
    for row in rows {
        let own: BTreeSet<&str> = parts(&row.cells[1]).collect();
        values.extend(names.iter().map(|name| f32::from(u8::from(own.contains(name)))));
    }
    let names = names.into_iter().map(str::to_string).collect();
    Table { files, names, targets: Targets::Labels(values.into()) }
}

fn numbers(files: Vec<PathBuf>, rows: &[Row], header: Option<&Row>) -> Result<Table> {
    let width = rows[0].cells.len() - 1;
    let mut values = Vec::with_capacity(rows.len() * width);
    for row in rows {
        for cell in &row.cells[1..] {
            values.push(number(cell).ok_or_else(|| {
                let message = format!("line {} has {cell:?} among its numbers", row.line);
                Error::malformed(message).hint("expected finite numbers, with a decimal point")
            })?);
        }
    }
    let names = match header {
        Some(header) => header.cells[1..].iter().map(|name| name.trim().to_string()).collect(),
        None => (0..width).map(|column| column.to_string()).collect(),
    };
    Ok(Table { files, names, targets: Targets::Numbers(values.into()) })
}

/// One row and the line it begins at, counted from 1.
struct Row {
    line: usize,
    cells: Vec<String>,
}

/// The rows that are not empty.
fn rows(text: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut row = Row { line: 1, cells: vec![String::new()] };
    let (mut line, mut quoted) = (1, false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let cell = row.cells.last_mut().ok_or_else(|| Error::internal("a row has a cell"))?;
        line += usize::from(c == '\n');
        match (c, quoted) {
            ('"', true) if rest.next_if_eq(&'"').is_some() => cell.push('"'),
            ('"', true) => quoted = false,
            ('"', false) if cell.is_empty() => quoted = true,
            (',', false) => row.cells.push(String::new()),
            ('\r', false) if rest.peek() == Some(&'\n') => {}
            ('\n', false) => {
                let next = Row { line, cells: vec![String::new()] };
                rows.push(std::mem::replace(&mut row, next));
            }
            _ => cell.push(c),
        }
    }
    if quoted {
        return Err(Error::malformed(format!("the quotes of line {} do not end", row.line)));
    }
    rows.push(row);
    rows.retain(|row| row.cells.len() > 1 || !row.cells[0].trim().is_empty());
    Ok(rows)
}
