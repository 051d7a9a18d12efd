//! The structure that the documents promise, checked against the source tree itself.
//!
//! Every check collects all that is wrong before it fails. Lists of exceptions give a reason for
//! each entry, and an entry that is no longer needed fails too: they can only shrink.

mod source;

use std::collections::{BTreeMap, BTreeSet};

use self::source::{
    Source, exists, files, functions, lines_with, module_path, read, sources, variants,
};

/// The top-level modules, lowest first. A module sees only rows above its own, and itself.
const LEVELS: [&[&str]; 13] = [
    &["error"],
    &["atomic_file", "rng", "tensor", "threads"],
    &["claim", "data", "graph"],
    &["autodiff", "onnx", "prior", "update"],
    &["kernel", "task"],
    // A step is built around the loss of a task.
    &["step"],
    &["plan"],
    &["backend"],
    &["posterior"],
    &["adapt"],
    // Adaptation in the background.
    &["job"],
    // The same for C.
    &["capi"],
    &["bin", "lib"],
];

/// Words of code and the only places where each may stand.
const QUARANTINE: [(&str, &[&str]); 21] = [
    ("tract_onnx", &["src/onnx/"]),
    ("ort", &["src/posterior/runtime/onnxruntime"]),
    ("prost", &["src/onnx/"]),
    ("wgpu", &["src/backend/gpu/"]),
    ("safetensors", &["src/prior/file.rs", "src/posterior/file.rs", "src/adapt/archive.rs"]),
    ("image", &["src/data/"]),
    ("png", &["src/data/"]),
    ("zip", &["src/data/npz.rs", "src/prior/foreign/torch.rs"]),
    ("clap", &["src/bin/"]),
    ("ctrlc", &["src/bin/"]),
    ("indicatif", &["src/bin/"]),
    ("env_logger", &["src/bin/"]),
    ("std::env", &["src/bin/"]),
    // A temporary file's name holds the number of its process.
    ("std::process", &["src/bin/", "src/atomic_file.rs"]),
    ("println!", &["src/bin/"]),
    ("eprintln!", &["src/bin/"]),
    ("print!", &["src/bin/"]),
    ("eprint!", &["src/bin/"]),
    ("SystemTime", &["src/bin/"]),
    // How long a submission takes decides how much goes into the next; a job's budgets are promises
    // about time.
    ("Instant", &["src/bin/", "src/backend/gpu/pace.rs", "src/job/clock.rs"]),
    ("thread_priority", &["src/job/budget.rs"]),
];

/// Where `unsafe` may stand.
const UNSAFE: [&str; 6] = [
    "src/backend/cpu/",
    "src/backend/gpu/cache.rs",
    "src/backend/gpu/context.rs",
    "src/capi/",
    "src/kernel/",
    "src/threads.rs",
];

/// What code that is not a test never holds.
const NEVER: [&str; 5] = [".unwrap()", "dbg!", "todo!", "unimplemented!", "unreachable_unchecked"];

/// Shaders beside those that are called as their kernel, and the file of their twin.
const MORE_SHADERS: [(&str, &str); 2] = [
    ("depthwise", "src/kernel/depthwise.rs"),
    ("depthwise_filter_grad", "src/kernel/depthwise.rs"),
];

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;
const COLUMNS_MAX: usize = 100;

/// Functions that may be longer: file, name, how long at most, why.
const LONG_FUNCTIONS: [(&str, &str, usize, &str); 0] = [];

/// What no reverse-mode rule exists for, and why.
const NOT_DIFFERENTIABLE: [(&str, &str); 6] = [
    ("Leaf", "the sweep ends there"),
    ("Const", "the sweep ends there"),
    ("MaxPoolGrad", "only second derivatives of a network would need it"),
    ("Update", "nothing follows the end of a step"),
    ("Sign", "its derivative is 0 wherever there is one"),
    ("Less", "its derivative is 0 wherever there is one"),
];

/// Fails with everything that is wrong.
fn assert_none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The top-level module that a file of `src/` belongs to.
fn room(path: &str) -> String {
    let module = module_path(path);
    module.split('/').nth(1).unwrap_or("lib").to_string()
}

/// The names that follow `crate::`, also in a group.
fn crate_names(code: &str) -> BTreeSet<&str> {
    let leading = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(0);
    let mut names = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => {
                names.insert(&rest[..leading(rest)]);
            }
            Some(group) => {
                let group = group.split("};").next().unwrap_or(group);
                names.extend(group.split(',').map(|item| {
                    let item = item.trim_start();
                    &item[..leading(item)]
                }));
            }
        }
    }
    names
}

#[test]
fn modules_see_lower_levels_only() {
    let level = |name: &str| LEVELS.iter().position(|row| row.contains(&name));
    let mut wrong = Vec::new();
    let mut rooms = BTreeSet::new();
    for source in sources("src") {
        let room = room(&source.path);
        rooms.insert(room.clone());
        let Some(own) = level(&room) else {
            wrong.push(format!("{}: give module '{room}' a row in LEVELS", source.path));
            continue;
        };
        for name in crate_names(&source.code) {
            if name != room && level(name).is_some_and(|other| other >= own) {
                wrong.push(format!("{}: {room} may not use {name}", source.path));
            }
        }
        let depth = module_path(&source.path).split('/').count() - 1;
        if source.code.contains(&"super::".repeat(depth.max(1))) && room != "bin" {
            wrong.push(format!("{}: write `crate::` to leave the module", source.path));
        }
    }
    let listed: BTreeSet<String> = LEVELS.concat().iter().map(|name| name.to_string()).collect();
    wrong.extend(listed.difference(&rooms).map(|name| format!("LEVELS lists no module: {name}")));
    assert_none(wrong);
}

#[test]
fn heavy_dependencies_and_side_effects_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|source| !source.is_test) {
        for (word, places) in QUARANTINE {
            if places.iter().any(|place| source.path.starts_with(place)) {
                continue;
            }
            // A crate's name counts where it opens a path, a local variable's does not.
            let opens_path = word.chars().all(|c| c.is_alphanumeric() || c == '_')
                && word.starts_with(char::is_lowercase);
            let needle = if opens_path { format!("{word}::") } else { word.to_string() };
            let lines = source.code.lines().enumerate();
            for (number, _) in lines.filter(|(_, line)| names(line, &needle)) {
                wrong.push(format!("{}:{}: '{word}' only in {places:?}", source.path, number + 1));
            }
        }
    }
    assert_none(wrong);
}

/// Whether `needle` stands in `line` as the start of a path or word.
fn names(line: &str, needle: &str) -> bool {
    line.match_indices(needle)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

#[test]
fn unsafe_code_is_confined_and_justified() {
    let mut wrong = Vec::new();
    let mut places: BTreeSet<&str> = UNSAFE.into();
    for source in sources("src") {
        let place = UNSAFE.iter().find(|place| source.path.starts_with(**place));
        let lines: Vec<&str> = source.text.lines().collect();
        for number in lines_with(&source.code, "unsafe") {
            let here = format!("{}:{}", source.path, number + 1);
            match place {
                Some(place) => places.remove(place),
                None => {
                    wrong.push(format!("{here}: `unsafe` outside {UNSAFE:?}"));
                    continue;
                }
            };
            if !is_justified(&lines, number) {
                wrong.push(format!("{here}: `unsafe` without SAFETY comment"));
            }
        }
    }
    wrong.extend(places.iter().map(|place| format!("UNSAFE lists {place}, which has none")));
    assert_none(wrong);
}

/// Whether the `unsafe` block or implementation on a line has its reason near: above it, or above
/// the statement it is part of. What a function asks of its callers is in its documentation, or in
/// that of the trait or type it is an instance of; rustdoc's lints look after that.
fn is_justified(lines: &[&str], number: usize) -> bool {
    /// Lines of a statement and its comment that are searched.
    const NEAR: usize = 6;
    let line = lines[number];
    let claims = line.contains("unsafe {") || line.contains("unsafe impl");
    let near = &lines[number.saturating_sub(NEAR)..=number];
    !claims || near.iter().any(|line| line.contains("SAFETY:"))
}

#[test]
fn code_keeps_its_shape() {
    let mut wrong = Vec::new();
    let mut long_seen = BTreeSet::new();
    let folders = ["src", "tests", "examples/desktop/src", "examples/desktop/tests"];
    for source in folders.into_iter().flat_map(sources) {
        wrong.extend(layout(&source));
        for function in functions(&source.code) {
            let listed = LONG_FUNCTIONS
                .iter()
                .find(|(path, name, ..)| *path == source.path && *name == function.name);
            let limit = listed.map_or(FUNCTION_LINES_MAX, |(.., limit, _)| *limit);
            if function.lines > limit {
                wrong.push(format!(
                    "{}: fn {} has {} lines, {limit} at most",
                    source.path, function.name, function.lines
                ));
            }
            if listed.is_some() && function.lines > FUNCTION_LINES_MAX {
                long_seen.insert((source.path.clone(), function.name));
            }
        }
    }
    for (path, name, ..) in LONG_FUNCTIONS {
        if !long_seen.contains(&(path.to_string(), name.to_string())) {
            wrong.push(format!("LONG_FUNCTIONS need not list {name} of {path} any more"));
        }
    }
    assert_none(wrong);
}

/// What is wrong with one file's lines.
fn layout(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    let path = &source.path;
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        wrong.push(format!("{path}: {lines} lines, {FILE_LINES_MAX} at most"));
    }
    for (number, line) in source.text.lines().enumerate() {
        if line.chars().count() > COLUMNS_MAX {
            wrong.push(format!("{path}:{}: over {COLUMNS_MAX} columns", number + 1));
        }
    }
    let has_header = source.text.starts_with("//!") || source.text.starts_with("#![doc");
    if !source.is_test && !has_header {
        wrong.push(format!("{path}: begins without a paragraph that says what it is"));
    }
    if source.path.starts_with("src/") && !source.is_test {
        for (number, line) in source.code.lines().enumerate() {
            for word in NEVER.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{path}:{}: '{word}' outside tests", number + 1));
            }
        }
    }
    wrong
}

/// The names in the table of kernels.
fn kernel_names() -> Vec<String> {
    let table = read("src/kernel/table.rs");
    let (_, rest) = table.split_once("pub fn name(&self)").expect("Kernel has names");
    let (body, _) = rest.split_once("    }\n\n").expect("the function ends");
    body.split("=> \"").skip(1).filter_map(|arm| Some(arm.split_once('"')?.0.to_string())).collect()
}

#[test]
fn every_kernel_has_its_file_and_its_shader() {
    let names = kernel_names();
    let mut wrong = Vec::new();
    for name in &names {
        if !exists(&format!("src/kernel/{name}.rs")) && !exists(&format!("src/kernel/{name}")) {
            wrong.push(format!("kernel {name} has no file src/kernel/{name}.rs"));
        }
    }
    let table = sources("src").into_iter().find(|s| s.path == "src/kernel/table.rs");
    let variants = variants(&table.expect("the table of kernels").code, "Kernel");
    assert_eq!(variants.len(), names.len(), "each of {variants:?} has one name of {names:?}");
    let mut stems = BTreeSet::new();
    // What lies in a folder of its own is included by several.
    for shader in files("shaders", ".wgsl").iter().filter(|path| !path.contains("/shared/")) {
        let stem = shader.rsplit('/').next().and_then(|name| name.strip_suffix(".wgsl"));
        stems.extend(stem.map(str::to_string));
    }
    let mut expected: BTreeSet<String> = names.into_iter().collect();
    for (shader, twin) in MORE_SHADERS {
        expected.insert(shader.to_string());
        if !exists(twin) {
            wrong.push(format!("{twin}, the twin of {shader}, does not exist"));
        }
    }
    let differ = expected.symmetric_difference(&stems);
    wrong.extend(differ.map(|stem| format!("shaders/{stem}.wgsl: no such shader or no kernel")));
    assert_none(wrong);
}

#[test]
fn every_op_has_a_tested_rule_or_a_reason_for_none() {
    let language = sources("src").into_iter().find(|s| s.path == "src/graph/op.rs");
    let code = language.expect("the language").code;
    let tests = read("src/autodiff/tests.rs");
    // Builders are called as the ops are: `conv2d_input_grad` makes `Conv2dInputGrad`.
    let built: BTreeSet<String> = tests
        .split("g.")
        .skip(1)
        .filter_map(|call| Some(call.split_once('(')?.0.replace('_', "")))
        .collect();
    let mut wrong = Vec::new();
    let mut excused: BTreeSet<&str> = NOT_DIFFERENTIABLE.iter().map(|(name, _)| *name).collect();
    let mut demand = |name: &str, tested: bool| match (excused.remove(name), tested) {
        (true, true) => wrong.push(format!("{name} has a tested rule and an excuse")),
        (false, false) => wrong.push(format!("no rule of {name} in src/autodiff/tests.rs")),
        _ => {}
    };
    for op in variants(&code, "Op") {
        demand(&op, built.contains(&op.to_lowercase()));
    }
    for of in ["Unary", "Binary"] {
        for function in variants(&code, of) {
            let by_name = tests.contains(&format!("{of}::{function},"))
                || tests.contains(&format!("{of}::{function}("));
            let by_builder = built.contains(&function.to_lowercase());
            let excuse = NOT_DIFFERENTIABLE.iter().any(|(name, _)| *name == function);
            demand(&function, !excuse && (by_name || by_builder));
        }
    }
    wrong.extend(excused.iter().map(|name| format!("NOT_DIFFERENTIABLE lists no op: {name}")));
    assert_none(wrong);
}

/// The documents at the top of the repository.
fn documents() -> Vec<(String, String)> {
    let top = std::fs::read_dir(crate::support::repository(".")).expect("the repository");
    let names = top.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

#[test]
fn documents_name_what_exists() {
    const ROOTS: [&str; 11] = [
        "src/",
        "tests/",
        "models/",
        "benches/",
        "examples/",
        "include/",
        "exporter/",
        "shaders/",
        "fuzz/",
        ".ci/",
        "docs/",
    ];
    let mut wrong = Vec::new();
    for (document, text) in documents() {
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = ROOTS.iter().any(|root| quoted.starts_with(root))
                && !quoted.contains(['*', '<', ' ', '{', '\n']);
            if is_path && !exists(quoted) {
                wrong.push(format!("{document}: there is no {quoted}"));
            }
        }
    }
    let architecture = read("ARCHITECTURE.md");
    for room in LEVELS.concat().into_iter().filter(|room| *room != "lib") {
        let folder = format!("`src/{room}/`");
        if !architecture.contains(&folder) && !architecture.contains(&format!("`src/{room}.rs`")) {
            wrong.push(format!("ARCHITECTURE.md does not say what {folder} is"));
        }
    }
    assert_none(wrong);
}

#[test]
fn the_commands_that_documents_show_are_checked() {
    let checks = read(".ci/run");
    let mut wrong = Vec::new();
    for (document, text) in documents() {
        // Odd pieces are inside fences; the first line is the fence's language.
        for block in text.split("```").skip(1).step_by(2) {
            let commands = block.lines().map(str::trim).filter(|line| {
                line.starts_with("cargo test") || line.starts_with("cargo run --release -- demo")
            });
            for command in commands {
                let command = command.split('#').next().unwrap_or(command).trim();
                if !checks.contains(command) {
                    wrong.push(format!("{document} shows `{command}`, which .ci/run does not run"));
                }
            }
        }
    }
    let is_last = checks.trim_end().ends_with("cargo test --release --all-features");
    assert!(is_last, "the tests come last in .ci/run");
    assert_none(wrong);
}

#[test]
fn size_report() {
    let mut lines: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for source in sources("src") {
        lines.entry(room(&source.path)).or_default()[usize::from(source.is_test)] +=
            source.text.lines().count();
    }
    for (room, [code, tests]) in &lines {
        println!("{room:>12} {code:6} lines {tests:6} of tests");
    }
    let total: usize = lines.values().map(|[code, _]| code).sum();
    println!("{:>12} {total:6} lines", "all");
}
