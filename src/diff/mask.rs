//! What of a text is not shown: secrets in URLs, and all of what is named like a secret.

use super::CUT;

/// Words that a secret's name has. (Not `tokens`: `max_tokens` is a number that everybody sets.)
const SECRETS: [&str; 11] = [
    "key",
    "apikey",
    "token",
    "secret",
    "secrets",
    "password",
    "passwd",
    "pwd",
    "authorization",
    "credential",
    "credentials",
];

/// Whether a field of this name may hold a secret.
pub(super) fn is_secret(name: &str) -> bool {
    is_named(name, &SECRETS)
}

/// Whether one of this name holds a URL.
pub(super) fn is_url(name: &str) -> bool {
    is_named(name, &["url", "uri", "endpoint"])
}

fn is_named(name: &str, names: &[&str]) -> bool {
    words(name)
        .iter()
        .any(|word| names.contains(&word.as_str()))
}

/// `apiKey`, `api_key`, `X-API-Key`: api and key.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        let begins = !c.is_alphanumeric() || (c.is_uppercase() && was_lower);
        if begins {
            words.push(String::new());
        }
        was_lower = c.is_lowercase() || c.is_numeric();
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words
}

/// A text without what may be secret in the URLs in it. Each is taken to go on until a blank: rather too much is hidden.
pub fn masked(text: &str) -> String {
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + 3);
        let end = url.find(char::is_whitespace).unwrap_or(url.len());
        shown.push_str(before);
        shown.push_str(&without_secrets(&url[..end]));
        rest = &url[end..];
    }
    shown.push_str(rest);
    shown
}

/// The same of what is said to be a URL, blanks or not.
pub(super) fn masked_url(text: &str) -> String {
    match text.find("://") {
        Some(at) => format!("{}{}", &text[..at + 3], without_secrets(&text[at + 3..])),
        None => without_secrets(text),
    }
}

/// Of what comes after `://`: host, port and path. A password that is not written as it should be (`/`, `?` and `#` in it) seems to be a
/// part of those, so where an `@` comes late and it is not clear what is before it, that is not shown.
fn without_secrets(url: &str) -> String {
    let authority_ends = url.find(['/', '\\', '?', '#']).unwrap_or(url.len());
    let (authority, more) = url.split_at(authority_ends);
    let shown_from = match (url.rfind('@'), authority.rfind('@')) {
        (None, _) => 0,
        (Some(last), Some(at)) if last == at => at + 1,
        (Some(last), at) => {
            let path = &more[..more.find(['?', '#']).unwrap_or(more.len())];
            // As in https://example.com/@somebody, or ?email=…@….
            let is_clear = !path.is_empty()
                && !authority.contains(':')
                && !path.contains("://")
                && path
                    .match_indices('@')
                    .all(|(at, _)| path[..at].ends_with('/'));
            match (is_clear, at) {
                (true, Some(at)) => at + 1,
                (true, None) => 0,
                (false, _) => last + 1,
            }
        }
    };
    let mut shown = String::new();
    if shown_from > 0 {
        shown.extend([CUT, '@']);
    }
    let rest = &url[shown_from..];
    match rest.find(['?', '#']) {
        Some(end) => {
            shown.push_str(&rest[..=end]);
            shown.push(CUT);
        }
        None => shown.push_str(rest),
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_url_only_scheme_host_port_and_path_are_shown() {
        for (url, shown) in [
            ("https://host", "https://host"),
            ("https://host:8443/mcp/v1", "https://host:8443/mcp/v1"),
            ("https://host/mcp?key=canary", "https://host/mcp?…"),
            ("https://host/mcp#canary", "https://host/mcp#…"),
            ("https://host?canary#canary", "https://host?…"),
            ("https://user:canary@host/mcp", "https://…@host/mcp"),
            ("https://canary@host:1/mcp?canary", "https://…@host:1/mcp?…"),
            (
                "postgresql://u:canary@db/x?sslmode=canary",
                "postgresql://…@db/x?…",
            ),
            (
                "https://medium.com/@somebody/x",
                "https://medium.com/@somebody/x",
            ),
            ("https://host/x?email=canary@b", "https://host/x?…"),
            // Passwords that are not written as they should be.
            ("https://u:canary/canary@host/x", "https://…@host/x"),
            ("https://u:canary?canary@host/x", "https://…@host/x"),
            ("https://u:canary#canary@host/x", "https://…@host/x"),
            ("https://u:12/@canary@host/x", "https://…@host/x"),
            ("https://canary/canary@host/x", "https://…@host/x"),
            ("https://canary?canary@host/x", "https://…@host/x"),
            ("https://a/https://u:canary@host/x", "https://…@host/x"),
        ] {
            assert_eq!(masked(url), shown);
            assert_eq!(masked_url(url), shown);
            assert_eq!(masked(shown), shown, "what is masked stays as it is");
            let text = format!("Ask {url}\nor {url} twice.");
            assert_eq!(masked(&text), format!("Ask {shown}\nor {shown} twice."));
        }
        for (url, shown) in [
            ("host/mcp?key=canary", "host/mcp?…"),
            ("u:canary@host/mcp", "…@host/mcp"),
            ("https://host/mcp?key=ca nary", "https://host/mcp?…"),
        ] {
            assert_eq!(masked_url(url), shown);
        }
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in [
            "key",
            "api_key",
            "apiKey",
            "X-API-Key",
            "openai.token",
            "accessToken",
            "PASSWORD",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "max_tokens",
            "keyboard",
            "auth_required",
            "tokenizer",
            "system_prompt",
            "",
        ] {
            assert!(!is_secret(name), "{name}");
        }
        assert!(is_url("endpoint_url") && is_url("url") && is_url("baseUrl") && !is_url("curly"));
    }
}
