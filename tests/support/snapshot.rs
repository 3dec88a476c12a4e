//! What a command prints, compared with a file of the repository. `UPDATE_SNAPSHOTS=1` writes the files anew: look at what has
//! changed before it is committed.

use std::path::Path;

use super::binary::run;

/// Runs `agent-sync` with these variables and compares what it says with `tests/fixtures/<file>.txt`. `masks`: what is another each time,
/// and what stands for it there; so do times, ids and versions of PostgreSQL.
pub async fn assert_says(
    file: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
    masks: &[(String, &str)],
) {
    let ended = run(arguments, variables).await;
    let mut said = format!("$ agent-sync {}\n{}", arguments.join(" "), ended.stdout);
    if !ended.stderr.is_empty() {
        said += &format!("--- standard error\n{}", ended.stderr);
    }
    let code = ended
        .code
        .map_or("none".to_owned(), |code| code.to_string());
    said += &format!("--- exit code {code}\n");
    for (from, to) in masks {
        said = said.replace(from, to);
    }
    let said = masked(&said);

    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(file)
        .with_extension("txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(&path, said).expect("written");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = said
        .lines()
        .zip(expected.lines())
        .find(|(said, expected)| said != expected);
    assert!(
        said == expected,
        "{file} says something else (UPDATE_SNAPSHOTS=1 writes it anew). First: {differs:?}\n{said}"
    );
}

/// Without what is another each time.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, instead) = [
            (shaped(rest, "dddd-dd-ddTdd:dd:dd"), "<time>"),
            (shaped(rest, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"), "<id>"),
        ]
        .into_iter()
        .find(|(length, _)| *length > 0)
        .unwrap_or((0, ""));
        if length == 0 {
            masked.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        rest = &rest[length..];
        if instead == "<time>" {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || ".:+Z".contains(c));
        }
        masked.push_str(instead);
    }
    for before in ["PostgreSQL ", "oldest for ", "connections: "] {
        masked = without_number(&masked, before);
    }
    masked
}

/// How much of the beginning has this shape: `d` a digit, `x` a hexadecimal one, anything else itself.
fn shaped(text: &str, shape: &str) -> usize {
    let fits = |(c, s): (char, char)| match s {
        'd' => c.is_ascii_digit(),
        'x' => c.is_ascii_hexdigit(),
        other => c == other,
    };
    let is_it = text.len() >= shape.len() && text.chars().zip(shape.chars()).all(fits);
    if is_it { shape.len() } else { 0 }
}

fn without_number(text: &str, before: &str) -> String {
    let mut parts = text.split(before);
    let mut said = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = if rest.len() < part.len() { "<n>" } else { "" };
        said += &format!("{before}{number}{rest}");
    }
    said
}
