//! Headers and tokens → who is let in. By the first byte of the input:
//!
//! | byte | the rest |
//! |---|---|
//! | `h` | `Authorization` headers, a line each |
//! | `m` | which of the tokens in `keys`, and what is changed about it |
//! | `c` | rules, a header and claims, which are then signed |
//! | `k` | a JWKS |

use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderValue};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Map, Value};

use crate::config::{Config, SUPABASE_JWT_SECRET};
use crate::http::auth::keys::{Key, Keys};
use crate::http::auth::token::{MAX_TOKEN, Rules, Token};
use crate::http::auth::{Authenticator, Caller};

/// Tokens of one user, good until the year 3000. The private halves of the keys are gone.
const SIGNED: [&str; 3] = [
    include_str!("keys/es256.jwt"),
    include_str!("keys/rs256.jwt"),
    include_str!("keys/hs256.jwt"),
];
const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Signs what an input says, and so is not the key of the tokens above.
const OTHER_SECRET: &[u8] = b"another secret of thirty-two byte";
const NOW: u64 = 1_800_000_000;
const PROJECT: &str = "https://ref.supabase.co/auth/v1";

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let keys = Keys::parse(include_bytes!("keys/jwks.json")).unwrap_or_default();
    assert_eq!(keys.count(), 2);
    keys
});
static LEGACY: LazyLock<Key> = LazyLock::new(|| Key::secret(SECRET.as_bytes()));
static AUTHENTICATOR: LazyLock<Arc<Authenticator>> = LazyLock::new(|| {
    let variables = [(SUPABASE_JWT_SECRET.to_owned(), SECRET.to_owned())];
    let config = Config::from_variables(&variables.into()).expect("a configuration");
    Arc::new(Authenticator::new(&config.authentication, false))
});

pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((b'h', lines)) => headers(lines),
        Some((b'm', changes)) => changed(changes),
        Some((b'c', rest)) => claims(rest),
        Some((b'k', jwks)) => published(jwks),
        _ => {}
    }
}

fn headers(lines: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(AUTHORIZATION, value);
        }
    }
    let caller = AUTHENTICATOR.caller(&headers).now_or_never();
    let is_in = caller.expect("nothing is fetched").is_ok();
    let sent: Vec<&[u8]> = headers
        .get_all(AUTHORIZATION)
        .iter()
        .map(|h| h.as_bytes())
        .collect();
    // Signed by the secret, and with nothing but the scheme before it.
    let expected = match sent.as_slice() {
        [header] => header
            .trim_ascii()
            .split_at_checked(7)
            .is_some_and(|(scheme, token)| {
                scheme.eq_ignore_ascii_case(b"bearer ")
                    && token.trim_ascii_start() == SIGNED[2].as_bytes()
            }),
        _ => false,
    };
    // (Other blanks than these are no part of a header that is let in.)
    assert!(is_in == expected || !is_in && sent.iter().any(|h| h.contains(&b'\t')));

    // And as the token itself.
    if let Ok(text) = std::str::from_utf8(lines) {
        assert_eq!(is_verified(text), SIGNED.contains(&text), "{text}");
    }
}

/// As the authenticator does it: a secret's token by the secret, any other by the published keys.
fn is_verified(text: &str) -> bool {
    Token::parse(text).is_ok_and(|token| match token.is_symmetric() {
        true => token.verify([&*LEGACY].into_iter()).is_ok(),
        false => token.verify(KEYS.named(token.kid())).is_ok(),
    })
}

fn changed(changes: &[u8]) {
    let Some((which, changes)) = changes.split_first() else {
        return;
    };
    let original = SIGNED[usize::from(*which) % SIGNED.len()];
    assert!(is_verified(original));
    let mut text = original.as_bytes().to_vec();
    for change in changes.chunks_exact(4) {
        let [how, low, high, byte] = *change else {
            return;
        };
        let at = usize::from(u16::from_be_bytes([high, low])) % (text.len() + 1);
        match how % 6 {
            0 if at < text.len() => text[at] = byte,
            1 if at < text.len() => _ = text.remove(at),
            2 => text.insert(at, byte),
            3 => text.truncate(at),
            4 => swap_part(&mut text, at, SIGNED[usize::from(byte) % SIGNED.len()]),
            5 => flip(&mut text, at, byte),
            _ => {}
        }
    }
    if let Ok(text) = std::str::from_utf8(&text) {
        assert_eq!(is_verified(text), SIGNED.contains(&text), "{text}");
    }
}

/// One of the three parts becomes that of another token.
fn swap_part(text: &mut Vec<u8>, at: usize, other: &str) {
    let mut parts: Vec<&[u8]> = text.split(|byte| *byte == b'.').collect();
    let others: Vec<&str> = other.split('.').collect();
    let n = at % 3;
    if n < parts.len() {
        parts[n] = others[n].as_bytes();
    }
    *text = parts.join(&b'.');
}

/// A byte of what one of the parts encodes.
fn flip(text: &mut Vec<u8>, at: usize, byte: u8) {
    let mut parts: Vec<Vec<u8>> = text
        .split(|byte| *byte == b'.')
        .map(<[u8]>::to_vec)
        .collect();
    let n = at % parts.len();
    if let Ok(mut decoded) = URL_SAFE_NO_PAD.decode(&parts[n])
        && !decoded.is_empty()
    {
        let at = at / 3 % decoded.len();
        decoded[at] ^= byte;
        parts[n] = URL_SAFE_NO_PAD.encode(decoded).into_bytes();
    }
    *text = parts.join(&b'.');
}

fn claims(rest: &[u8]) {
    let Some((flags, rest)) = rest.split_first() else {
        return;
    };
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (header, claims) = (&rest[..end], rest[end..].trim_ascii_start());
    let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
    let message = format!("{}.{}", encode(header), encode(claims));
    let signing = EncodingKey::from_secret(OTHER_SECRET);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &signing, Algorithm::HS256);
    let text = format!("{message}.{}", signature.expect("signed"));
    assert!(!is_verified(&text), "{text}");

    let object = |json: &[u8]| serde_json::from_slice::<Map<String, Value>>(json).ok();
    let is_taken = object(header).is_some_and(|header| {
        let kid = header.get("kid");
        let names_one = kid.is_none_or(|kid| kid.is_string() || kid.is_null());
        header.get("alg").is_some_and(|alg| alg == "HS256")
            && !header.contains_key("crit")
            && names_one
    });
    let expected = object(claims).filter(|_| is_taken && text.len() <= MAX_TOKEN);
    let key = Key::secret(OTHER_SECRET);
    let verified = Token::parse(&text).and_then(|token| token.verify([&key].into_iter()));
    assert_eq!(verified.as_ref().ok(), expected.as_ref());

    if let Some(claims) = expected {
        let rules = Rules {
            issuer: (flags & 1 != 0).then(|| PROJECT.to_owned()),
            allow_service_role: flags & 2 != 0,
            allow_anonymous: flags & 4 != 0,
        };
        assert_let_in_by_the_rules(&rules, claims);
    }
}

fn assert_let_in_by_the_rules(rules: &Rules, claims: Map<String, Value>) {
    let said = Value::Object(claims.clone());
    let number = |name: &str| said[name].as_number().and_then(serde_json::Number::as_f64);
    let (now, leeway) = (NOW as f64, 30.0);
    let in_time = number("exp").is_some_and(|exp| now - exp < leeway)
        && (said.get("nbf").is_none() || number("nbf").is_some_and(|nbf| nbf - now <= leeway));
    let issued_by = |others: &[&str]| {
        let issuer = said["iss"].as_str().unwrap_or_default();
        rules.issuer.is_none() || issuer == PROJECT || others.contains(&issuer)
    };
    let for_users = match &said["aud"] {
        Value::Array(all) => all.iter().any(|one| one == "authenticated"),
        one => one == "authenticated",
    };
    let user = said["sub"].as_str().filter(|id| is_uuid(id));
    let not_anonymous = matches!(said["is_anonymous"], Value::Null | Value::Bool(false));
    let owner = match said["role"].as_str() {
        _ if !in_time => None,
        Some("authenticated") => {
            user.filter(|_| issued_by(&[]) && for_users && (not_anonymous || rules.allow_anonymous))
        }
        Some("service_role") => Some("system")
            .filter(|_| rules.allow_service_role && issued_by(&["supabase", "supabase-demo"])),
        _ => None,
    };
    let caller = rules.caller(claims, NOW);
    let let_in = caller.as_ref().ok().map(Caller::owner);
    assert_eq!(let_in.as_deref(), owner, "{said}");
    match caller {
        // The database is asked with just what was signed.
        Ok(Caller::User(user)) => assert_eq!(Value::Object((*user.claims).clone()), said),
        Ok(Caller::System) => assert_eq!(owner, Some("system")),
        Ok(Caller::Dev) => panic!("no token makes a caller Dev"),
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
}

/// As Supabase writes them.
fn is_uuid(text: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match byte {
            b'-' => hyphens.contains(&at),
            byte => !hyphens.contains(&at) && matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

fn published(jwks: &[u8]) {
    let Ok(keys) = Keys::parse(jwks) else {
        return;
    };
    assert!(keys.count() <= 16);
    for signed in SIGNED {
        let token = Token::parse(signed).expect("a token");
        let is_signed = token.verify(keys.named(token.kid())).is_ok();
        // A published key is never one of a secret.
        assert!(!(is_signed && token.is_symmetric()));
    }
}
