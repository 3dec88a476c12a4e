//! `AGENT_SYNC_CORS_ORIGINS`: the origins whose pages may call the API from a browser.

use std::net::Ipv6Addr;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origins {
    #[default]
    Any,
    None,
    /// As browsers name themselves in `Origin`.
    These(Vec<String>),
}

/// `*`, `none`, or a comma-separated list.
pub(super) fn origins(text: &str) -> Result<Origins, String> {
    match text {
        "*" => return Ok(Origins::Any),
        _ if text.eq_ignore_ascii_case("none") => return Ok(Origins::None),
        _ => {}
    }
    let listed = text.split(',').map(str::trim).filter(|one| !one.is_empty());
    let origins: Vec<String> = listed.map(origin).collect::<Result<_, _>>()?;
    match origins.is_empty() {
        true => Err("it names no origin: there is none for that".to_owned()),
        false => Ok(Origins::These(origins)),
    }
}

/// In lower case and without a default port, as browsers say it.
fn origin(text: &str) -> Result<String, String> {
    let wrong = |why: &str| {
        // What is behind these, or before the first, may be a secret.
        let quoted = match text.contains(['@', '?', '#']) {
            true => "an entry".to_owned(),
            false => format!("`{text}`"),
        };
        format!("{quoted} is not an origin like https://app.example.com: {why}")
    };
    if text == "*" || text.eq_ignore_ascii_case("none") {
        return Err(format!("`{text}` stands alone, or not at all"));
    }
    if text == "null" {
        return Err(wrong("any page can make itself one that says null"));
    }
    let lower = text.to_ascii_lowercase();
    let Some((scheme, rest)) = lower.split_once("://") else {
        return Err(wrong("it begins with https:// or another scheme"));
    };
    if !is_scheme(scheme) {
        return Err(wrong("that is no scheme before ://"));
    }
    if rest.contains(['/', '?', '#', '@']) {
        return Err(wrong(
            "it is scheme, host and port, and nothing before, between or after them, not even a slash",
        ));
    }
    if rest.contains('*') {
        return Err(wrong("each host is named, there are no patterns"));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => match port.parse::<u16>() {
            Ok(port) => (host, Some(port)),
            Err(_) => return Err(wrong("that is no port")),
        },
        _ => (rest, None),
    };
    if !is_host(host) {
        return Err(wrong(
            "that is no host; one with other letters is written as browsers send it, xn--…",
        ));
    }
    let port = port.filter(|port| !matches!((scheme, port), ("https", 443) | ("http", 80)));
    Ok(match port {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    })
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}
