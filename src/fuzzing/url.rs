//! URLs with a secret in them → what of them a log may say. The secret stands wherever the input has a `*`.
//!
//! On one line, the input is a `DATABASE_URL`, nothing of which is ever shown. On several, they are user, password, host, path,
//! query and fragment of an HTTP URL, and all but host and path hold the secret.

use std::collections::BTreeMap;

use crate::config::{Config, DATABASE_URL, SUPABASE_JWKS_URL, SUPABASE_URL};

const SECRET: &str = "c4n4ry";

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let lines: Vec<&str> = text.split('\n').collect();
    match lines.as_slice() {
        [url] => assert_silent(DATABASE_URL, &url.replace('*', SECRET)),
        [user, password, host, path, query, fragment] => {
            let secret = |part: &str| match part.contains('*') {
                true => part.replace('*', SECRET),
                false => format!("{part}{SECRET}"),
            };
            let place = format!("{host}{path}").replace('*', "");
            // A fuzzer reads the secret out of comparisons.
            if place.to_lowercase().contains(SECRET) {
                return;
            }
            // One secret at a time, and all of them: one that shows must not hide behind one that is refused.
            for with in 1_u8..8 {
                let mut url = String::new();
                if with & 1 != 0 {
                    let user = Some(*user).filter(|user| !user.is_empty());
                    url += &user.map(secret).unwrap_or_default();
                    url += &format!(":{}@", secret(password));
                }
                url += &place;
                if with & 2 != 0 {
                    url += &format!("?{}", secret(query));
                }
                if with & 4 != 0 {
                    url += &format!("#{}", secret(fragment));
                }
                for name in [SUPABASE_URL, SUPABASE_JWKS_URL] {
                    assert_silent(name, &format!("https://{url}"));
                    assert_silent(name, &format!("http://{url}"));
                }
            }
        }
        _ => {}
    }
}

/// Nothing that is said of a configuration with this variable tells the secret.
fn assert_silent(name: &str, value: &str) {
    let variables = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let said = match Config::from_variables(&variables) {
        Ok(config) => {
            let warnings = config.authentication.warnings(config.dev, config.http_addr);
            let url = config.authentication.jwks.as_ref();
            let url = url.map(ToString::to_string);
            format!("{config:?} {warnings:?} {url:?}")
        }
        Err(errors) => format!("{errors} {errors:?}"),
    };
    assert!(
        !said.to_lowercase().contains(SECRET),
        "{name}={value}: {said}"
    );
}
