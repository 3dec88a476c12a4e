//! Secrets from files, as Docker and Kubernetes hand them over: `DATABASE_URL_FILE` names a file that holds `DATABASE_URL`.
//!
//! Of a file only its path is ever told, and that only where it looks like one: whoever mixes the two variables up has written the
//! secret itself there.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::store::{LANGGRAPH_API_KEY, LANGGRAPH_HEADERS};
use super::{AUTHENTICATOR_URL, DATABASE_URL, SUPABASE_JWT_SECRET, Variables};

/// What may be in a file.
pub const IN_FILES: [&str; 5] = [
    DATABASE_URL,
    AUTHENTICATOR_URL,
    SUPABASE_JWT_SECRET,
    LANGGRAPH_API_KEY,
    LANGGRAPH_HEADERS,
];

/// No secret is longer, in bytes.
const LONGEST: u64 = 64 * 1024;

/// The variable that names the file.
pub fn file_variable(name: &str) -> String {
    format!("{name}_FILE")
}

/// What is in a file on this machine, up to a little more than [`LONGEST`].
pub fn on_disk(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?
        .take(LONGEST + 1)
        .read_to_end(&mut content)?;
    Ok(content)
}

/// The variables, and what they name files for. A problem for each that cannot be had.
pub(super) fn complete(
    variables: &Variables,
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> (Variables, Vec<String>) {
    let (mut complete, mut problems) = (variables.clone(), Vec::new());
    for name in IN_FILES {
        let file = file_variable(name);
        let is_set = |name: &str| variables.get(name).map(|text| text.trim());
        let Some(path) = is_set(&file).filter(|path| !path.is_empty()) else {
            continue;
        };
        if is_set(name).is_some_and(|text| !text.is_empty()) {
            problems.push(format!(
                "{name} and {file} are both set: unset the one that is not meant"
            ));
            continue;
        }
        match content(path, &read) {
            Ok(text) => _ = complete.insert(name.to_owned(), text),
            Err(problem) => problems.push(format!("{file}: {problem}")),
        }
    }
    (complete, problems)
}

fn content(path: &str, read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> Result<String, String> {
    if path.contains("://") {
        return Err("it is a URL, and not the path of a file that holds one".to_owned());
    }
    let shown = match path.starts_with(['/', '.']) {
        true => path.to_owned(),
        false => {
            "the file that it names (not by its whole path, such as /run/secrets/…)".to_owned()
        }
    };
    let bytes = read(Path::new(path)).map_err(|e| format!("{shown} cannot be read: {e}"))?;
    if bytes.len() as u64 > LONGEST {
        return Err(format!("{shown} is larger than {LONGEST} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not valid UTF-8"))?;
    match text.trim() {
        "" => Err(format!("{shown} is empty")),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn read(path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str() {
            Some("/secret") => Ok(b"canary\r\n".to_vec()),
            Some("relative") => Ok(b"canary".to_vec()),
            Some("/empty") => Ok(b"\n".to_vec()),
            Some("/bytes") => Ok(b"canary\xff".to_vec()),
            Some("/large") => Ok(b"canary".repeat(64 * 1024)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    #[test]
    fn a_file_stands_for_its_variable_without_its_line_end() {
        for name in IN_FILES {
            for path in ["/secret", " /secret ", "relative"] {
                let given = variables(&[(&file_variable(name), path), (name, " ")]);
                let (complete, problems) = complete(&given, read);
                assert_eq!((complete[name].as_str(), problems), ("canary", Vec::new()));
            }
        }
        let given = variables(&[("DATABASE_URL_FILE", " "), ("AGENT_SYNC_SCOPE_FILE", "/no")]);
        assert_eq!(complete(&given, read), (given, Vec::new()));
    }

    #[test]
    fn all_that_is_wrong_is_told_and_nothing_that_may_be_secret() {
        let given = variables(&[
            ("DATABASE_URL_FILE", "/secret"),
            ("DATABASE_URL", "postgresql://u:canary@host/db"),
            (
                "AGENT_SYNC_AUTHENTICATOR_URL_FILE",
                "postgresql://u:canary@host/db",
            ),
            ("SUPABASE_JWT_SECRET_FILE", "canary-in-the-wrong-place"),
            ("LANGGRAPH_API_KEY_FILE", "/run/secrets/key"),
            ("AGENT_SYNC_LANGGRAPH_HEADERS_FILE", "/empty"),
        ]);
        let (_, problems) = complete(&given, read);
        assert_eq!(
            problems,
            [
                "DATABASE_URL and DATABASE_URL_FILE are both set: unset the one that is not meant",
                "AGENT_SYNC_AUTHENTICATOR_URL_FILE: it is a URL, and not the path of a file that holds one",
                "SUPABASE_JWT_SECRET_FILE: the file that it names (not by its whole path, such as /run/secrets/…) cannot be read: entity not \
                 found",
                "LANGGRAPH_API_KEY_FILE: /run/secrets/key cannot be read: entity not found",
                "AGENT_SYNC_LANGGRAPH_HEADERS_FILE: /empty is empty",
            ]
        );
        for (path, wrong) in [
            ("/bytes", "is not valid UTF-8"),
            ("/large", "is larger than"),
        ] {
            let (_, problems) = complete(&variables(&[("DATABASE_URL_FILE", path)]), read);
            assert!(problems[0].contains(wrong), "{problems:?}");
            assert!(!problems[0].contains("canary"), "{problems:?}");
        }
    }
}
