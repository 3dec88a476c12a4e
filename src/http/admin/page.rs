//! `GET /`: the page for people. One static file, which asks the rest of this server for what it shows.
//!
//! The browser is told to run and to style with what is in the file and nothing else, and to talk to nobody but us. So what data
//! says is never more than text, whatever it contains.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::Response;
use hyper::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use sha2::{Digest, Sha256};

use crate::http::Answer;

const PAGE: &str = include_str!("page/index.html");

/// By their hashes, which a file of ours cannot have wrong.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    HeaderValue::from_str(&policy(PAGE))
        .unwrap_or_else(|e| unreachable!("hashes are visible ASCII: {e}"))
});

pub fn page() -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from_static(PAGE.as_bytes()))));
    let fixed = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    let headers = answer.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    answer
}

/// - `data:` is the icon.
/// - No trusted types: what would make markup of text (`innerHTML` and the like) throws.
fn policy(page: &str) -> String {
    format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash(page, "script"),
        hash(page, "style"),
    )
}

/// Of what is between the tags, byte for byte.
fn hash(page: &str, element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let content = page
        .split_once(&open)
        .and_then(|(_, rest)| rest.split_once(&close))
        .map_or("", |(content, _)| content);
    format!(
        "'sha256-{}'",
        STANDARD.encode(Sha256::digest(content.as_bytes()))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_one_script_and_one_style_and_asks_nobody_else_for_anything() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "{element}");
            assert_eq!(
                PAGE.matches(&format!("<{element}>")).count(),
                1,
                "{element}"
            );
        }
        for foreign in ["http://", "https://", "src=", "@import", "url("] {
            let known = PAGE.replace("http://www.w3.org/2000/svg", "");
            assert!(!known.contains(foreign), "{foreign}");
        }
        // What the policy refuses, and a reader would not miss.
        for markup in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            " style=",
            " onclick=",
        ] {
            assert!(!PAGE.contains(markup), "{markup}");
        }
    }

    #[test]
    fn what_may_run_is_what_is_in_the_file() {
        let page = "<style>a{}</style><script>1</script>";
        let policy = policy(page);
        // openssl dgst -sha256 -binary | base64
        assert!(
            policy.contains("script-src 'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s=';"),
            "{policy}"
        );
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}
