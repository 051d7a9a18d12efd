//! Programs in C and C++, built against the library as `include/install.sh` lays it out, and run:
//! as they are, and under valgrind where there is one. With `PRIORFIT_REQUIRE_C` set nothing is
//! skipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::support::repository;

/// An adaptation of a few steps.
const QUICK: &str = r#"{
    "settings": {"steps": 2, "strength": 1.0, "head_variance": 1.0, "gate": false,
                 "probe_steps": 10},
    "input": {"normalise": "none"},
    "budget": {"threads": 1, "low_priority": false}
}"#;

/// Most bytes of the shared library without its symbols, all features included.
const BYTES_MAX: u64 = 36 << 20;

/// What a program would call that talks to other machines.
const NETWORK: [&str; 8] =
    ["accept", "bind", "connect", "getaddrinfo", "gethostbyname", "listen", "sendto", "socket"];

/// Whether a tool is there; if it is not, says what is skipped.
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        let required = std::env::var_os("PRIORFIT_REQUIRE_C").is_some();
        assert!(!required, "there is no {tool}");
        eprintln!("there is no {tool}: what needs it is skipped");
    }
    found
}

/// The standard output of a command that succeeds.
fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout
}

/// The folder that the library is laid out in, by the command that the README gives.
fn installed() -> Option<&'static Path> {
    static PREFIX: OnceLock<Option<PathBuf>> = OnceLock::new();
    let install = || {
        if !["sh", "cc", "c++", "pkg-config"].into_iter().all(has) {
            return None;
        }
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c");
        run(Command::new("sh").arg(repository("include/install.sh")).arg(&prefix));
        Some(prefix)
    };
    PREFIX.get_or_init(install).as_deref()
}

/// What pkg-config says for a compiler and linker.
fn flags(prefix: &Path, options: &[&str]) -> Vec<String> {
    let text = run(Command::new("pkg-config")
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
        .args(options)
        .arg("priorfit"));
    text.split_whitespace().map(str::to_string).collect()
}

/// Builds a program, with all warnings as errors.
fn build(prefix: &Path, source: &str) -> PathBuf {
    let name = Path::new(source).file_name().expect("a file").to_string_lossy();
    let program = prefix.join(name.replace('.', "-"));
    let (compiler, standard) =
        if source.ends_with(".c") { ("cc", "-std=c11") } else { ("c++", "-std=c++17") };
    let mut command = Command::new(compiler);
    command.args([standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-g"]);
    command.arg(repository(source)).args(flags(prefix, &["--cflags", "--libs"]));
    command.arg(format!("-Wl,-rpath,{}", prefix.join("lib").display()));
    run(command.arg("-lpthread").arg("-o").arg(&program));
    program
}

/// Runs a program as it is, and under valgrind, where reading memory that was freed or never set
/// fails the test, and so does memory that nobody can free any more.
fn both(program: &Path, arguments: &[PathBuf]) {
    run(Command::new(program).args(arguments));
    if has("valgrind") {
        run(Command::new("valgrind")
            .args(["--quiet", "--error-exitcode=9", "--leak-check=full", "--fair-sched=try"])
            .args(["--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"])
            .arg(program)
            .args(arguments));
    }
}

fn demo() -> PathBuf {
    repository("models/demo")
}

#[test]
fn the_c_example_adapts_saves_and_predicts() {
    let Some(prefix) = installed() else { return };
    let program = build(prefix, "examples/c/adapt.c");
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("mine");
    // As a user runs it.
    let said = run(Command::new(&program).arg(demo()).arg(&out));
    let figure = |line: &str| -> f64 {
        let line = said.lines().find_map(|text| text.strip_prefix(line)).expect("a line");
        line.trim().parse().expect("a number")
    };
    let [adapted, loaded] = ["adapted: accuracy", "loaded: accuracy"].map(figure);
    assert!(adapted > 0.9, "{said}");
    assert_eq!(adapted, loaded);
    both(&program, &[demo(), out.clone(), "2".into(), QUICK.into()]);
    let posterior = priorfit::posterior::Posterior::load(&out).expect("a posterior");
    assert_eq!(posterior.task().outputs(), 10);
}

#[test]
fn the_cpp_example_adapts_to_images_in_memory() {
    let Some(prefix) = installed() else { return };
    let program = build(prefix, "examples/c/memory.cpp");
    let said = run(Command::new(&program).arg(demo()));
    assert!(said.contains(" of 50 are known as lying or standing"), "{said}");
    let right: u32 = said.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(right >= 45, "{said}");
    both(&program, &[demo(), QUICK.into()]);
}

#[test]
fn a_hosts_mistakes_are_errors_and_nothing_is_lost() {
    let Some(prefix) = installed() else { return };
    let program = build(prefix, "tests/it/capi/misuse.c");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a-file"), "in the way").expect("a file");
    both(&program, &[demo(), folder.path().to_path_buf()]);
}

#[test]
fn exceptions_of_a_host_do_not_reach_the_library() {
    let Some(prefix) = installed() else { return };
    both(&build(prefix, "tests/it/capi/throws.cpp"), &[demo()]);
}

#[test]
fn the_static_library_links_with_what_pkg_config_says() {
    let Some(prefix) = installed() else { return };
    let program = prefix.join("adapt-static");
    let mut command = Command::new("cc");
    command
        .arg("-std=c11")
        .arg(repository("examples/c/adapt.c"))
        .args(flags(prefix, &["--cflags"]));
    command.arg(prefix.join("lib/libpriorfit.a"));
    // All but the library itself, which the linker would take from the shared one.
    let libraries = flags(prefix, &["--static", "--libs"]);
    command.args(libraries.iter().filter(|flag| !flag.contains("priorfit")));
    run(command.arg("-o").arg(&program));
    let folder = tempfile::tempdir().expect("a folder");
    run(Command::new(&program).arg(demo()).arg(folder.path()).args(["2", QUICK]));
}

#[cfg(target_os = "linux")]
#[test]
fn the_library_exports_its_interface_calls_no_network_and_is_not_large() {
    let Some(prefix) = installed() else { return };
    if !has("nm") {
        return;
    }
    let library = prefix.join("lib/libpriorfit.so");
    let symbols = |which: &str| -> Vec<String> {
        let text = run(Command::new("nm").args(["--dynamic", which]).arg(&library));
        let name = |line: &str| {
            let name = line.split_whitespace().last()?;
            Some(name.split('@').next()?.to_string())
        };
        text.lines().filter_map(name).collect()
    };
    let header = std::fs::read_to_string(repository("include/priorfit.h")).expect("the header");
    let exported = symbols("--defined-only");
    assert!(exported.len() > 30, "{exported:?}");
    for name in &exported {
        let is_declared = [" ", "*"].iter().any(|c| header.contains(&format!("{c}{name}(")));
        assert!(is_declared, "the header does not declare {name}");
    }
    let called = symbols("--undefined-only");
    assert!(called.iter().any(|name| name == "malloc"), "the library calls the system: {called:?}");
    let network: Vec<_> = called.iter().filter(|name| NETWORK.contains(&name.as_str())).collect();
    assert!(network.is_empty(), "the library calls {network:?}");
    let bytes = std::fs::metadata(&library).expect("the library").len();
    println!("the stripped library has {bytes} bytes");
    assert!(bytes <= BYTES_MAX, "the library has {bytes} bytes, {BYTES_MAX} at most");
}
