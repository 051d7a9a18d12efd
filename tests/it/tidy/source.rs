//! The source tree as text: files, their code without comments and strings, their functions.
//!
//! The scanner knows as much of the language as its layout by rustfmt demands, and no more.

use std::path::Path;

use crate::support::repository;

/// A source file.
pub struct Source {
    /// Relative to the repository, with `/` between its parts.
    pub path: String,
    /// As it is.
    pub text: String,
    /// The text with comments, strings and inline test modules blanked, line for line.
    pub code: String,
    /// Whether it is compiled for tests only.
    pub is_test: bool,
}

/// A function with a body.
pub struct Function {
    pub name: String,
    /// Number of lines from `fn` to the closing brace.
    pub lines: usize,
}

/// The paths of all files with this ending under `folder`, sorted; none if it does not exist.
pub fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(repository(folder)) else { return found };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a UTF-8 name");
        let path_text = format!("{folder}/{name}");
        if path.is_dir() {
            found.extend(files(&path_text, ending));
        } else if name.ends_with(ending) {
            found.push(path_text);
        }
    }
    found.sort();
    found
}

/// A text file of the repository.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// All Rust files under `folder`.
pub fn sources(folder: &str) -> Vec<Source> {
    let mut sources: Vec<Source> = files(folder, ".rs")
        .into_iter()
        .map(|path| {
            let text = read(&path);
            let code = without_inline_tests(&without_text(&text));
            Source { is_test: false, path, text, code }
        })
        .collect();
    let test_modules: Vec<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        let module = module_path(&source.path);
        source.is_test = test_modules
            .iter()
            .any(|test| module == *test || module.starts_with(&format!("{test}/")));
    }
    sources
}

/// `src/a/b.rs` and `src/a/b/mod.rs` to `src/a/b`.
pub fn module_path(path: &str) -> String {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    stem.strip_suffix("/lib").unwrap_or(stem).to_string()
}

/// The modules in files of their own that `source` declares for tests only.
fn test_modules(source: &Source) -> Vec<String> {
    let parent = module_path(&source.path);
    let declared = source.code.split("#[cfg(test)]").skip(1).filter_map(|rest| {
        let item = rest.trim_start();
        let item = item.strip_prefix("pub(crate) ").unwrap_or(item);
        item.strip_prefix("mod ")?.split_once(';').map(|(name, _)| name)
    });
    declared.map(|name| format!("{parent}/{name}")).collect()
}

/// The text with `#[cfg(test)] mod name { ... }` blanked.
fn without_inline_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]\nmod ") {
        let open = at + rest[at..].find(['{', ';']).expect("a module has a body or none");
        let end = if rest.as_bytes()[open] == b'{' { closing_brace(rest, open) } else { open };
        if rest.as_bytes()[open] == b'{' {
            kept.push_str(&rest[..at]);
            kept.extend(rest[at..=end].chars().filter(|&c| c == '\n'));
        } else {
            kept.push_str(&rest[..=end]);
        }
        rest = &rest[end + 1..];
    }
    kept + rest
}

/// Position of the brace that closes the one at `open`.
fn closing_brace(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("a brace is not closed: {}", &code[open..code.len().min(open + 80)]);
}

/// The text with the insides of comments, strings and characters replaced by spaces.
fn without_text(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// The end of the comment, string or character that starts at `at`, or `at` if none does.
fn literal_end(chars: &[char], at: usize) -> usize {
    let starts = |pattern: &str| {
        pattern.chars().enumerate().all(|(i, c)| chars.get(at + i).is_some_and(|&have| have == c))
    };
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    let find = |from: usize, wanted: &dyn Fn(usize) -> bool| {
        (from..chars.len()).find(|&i| wanted(i)).unwrap_or(chars.len())
    };
    if starts("//") {
        return find(at, &|i| chars[i] == '\n');
    }
    if starts("/*") {
        return find(at + 2, &|i| chars[i] == '*' && chars.get(i + 1) == Some(&'/')) + 2;
    }
    if !in_word && (starts("r\"") || starts("r#")) {
        let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
        if chars.get(at + 1 + hashes) != Some(&'"') {
            return at;
        }
        let ends =
            |i: usize| chars[i] == '"' && chars[i + 1..].iter().take(hashes).all(|&c| c == '#');
        return find(at + 2 + hashes, &ends) + 1 + hashes;
    }
    if starts("\"") {
        return quoted_end(chars, at, '"');
    }
    // A quote opens a character if one follows its single, or escaped, content; else a lifetime.
    let is_character = chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'');
    if starts("'") && is_character { quoted_end(chars, at, '\'') } else { at }
}

fn quoted_end(chars: &[char], at: usize, quote: char) -> usize {
    let mut end = at + 1;
    while end < chars.len() && chars[end] != quote {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    end + 1
}

/// Whether `word` stands at `at` of `code` by itself.
fn is_word(code: &str, at: usize, word: &str) -> bool {
    let of_name = |c: char| c.is_alphanumeric() || c == '_';
    !code[..at].ends_with(of_name) && !code[at + word.len()..].starts_with(of_name)
}

/// The lines, counted from 0, on which `word` stands by itself.
pub fn lines_with(code: &str, word: &str) -> Vec<usize> {
    code.lines()
        .enumerate()
        .filter(|(_, line)| line.match_indices(word).any(|(at, _)| is_word(line, at, word)))
        .map(|(number, _)| number)
        .collect()
}

/// The functions with a body.
pub fn functions(code: &str) -> Vec<Function> {
    let starts = code.match_indices("fn ").filter(|&(at, _)| is_word(code, at, "fn"));
    starts.filter_map(|(at, _)| function(code, at)).collect()
}

fn function(code: &str, at: usize) -> Option<Function> {
    let name: String =
        code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let mut depth = 0i32;
    for (offset, byte) in code[at..].bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => {
                let end = closing_brace(code, at + offset);
                let lines = code[at..end].matches('\n').count() + 1;
                return Some(Function { name, lines });
            }
            _ => {}
        }
    }
    None
}

/// The names of an enum's variants.
pub fn variants(code: &str, name: &str) -> Vec<String> {
    let declaration = format!("enum {name} {{");
    let at = code.find(&declaration).unwrap_or_else(|| panic!("no enum {name}"));
    let open = at + declaration.len() - 1;
    let body = &code[open..closing_brace(code, open)];
    let of_variant = |line: &str| {
        let rest = line.strip_prefix("    ")?;
        rest.starts_with(char::is_uppercase)
            .then(|| rest.chars().take_while(|c| c.is_alphanumeric()).collect())
    };
    body.lines().filter_map(of_variant).collect()
}

/// Whether a file or folder of the repository exists.
pub fn exists(path: &str) -> bool {
    Path::new(&repository(path)).exists()
}

#[test]
fn the_scanner_sees_code_and_only_code() {
    let text = "fn a<'x>(c: char) -> [u8; 2] { // } \" \n\
        let _ = ('{', '\\'', r#\"}\"#, \"\\\"}\"); }\n\
        fn declared(x: fn(usize));\nfn b() {}\n";
    let found: Vec<_> =
        functions(&without_text(text)).into_iter().map(|f| (f.name, f.lines)).collect();
    assert_eq!(found, [("a".to_string(), 2), ("b".to_string(), 1)]);
    let tests = "fn x() {}\n#[cfg(test)]\nmod tests {\n fn y() { }\n}\n#[cfg(test)]\nmod other;\n";
    let blanked = without_inline_tests(tests);
    assert_eq!(functions(&blanked).len(), 1);
    assert_eq!(blanked.lines().count(), tests.lines().count());
    assert_eq!(variants("enum E {\n    One,\n    Two { a: B },\n}", "E"), ["One", "Two"]);
}
