//! A token → whom it proves. Pure: keys, rules and time are given; nothing is fetched, nothing is logged, and nothing of a
//! token gets into an answer.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::keys::Key;
use super::{Caller, User};

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 8 * 1024;

/// How far the clocks of signer and worker may be apart, in seconds.
const LEEWAY: f64 = 30.0;

/// What the project's users have as `role` and in `aud`.
const AUTHENTICATED: &str = "authenticated";

/// Issuers of the API keys of legacy projects and of local ones. These keys are older than a project's URL, so they name
/// the same issuer everywhere; what binds them to the project is the signature.
const API_KEY_ISSUERS: [&str; 2] = ["supabase", "supabase-demo"];

/// Who is let in, of those whom a token proves.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// What `iss` must say, where the project is known.
    pub issuer: Option<String>,
    pub allow_service_role: bool,
    pub allow_anonymous: bool,
}

/// Why nobody is proven, or nobody who is let in: for an honest developer to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("The token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    #[error(
        "This is an API key of a Supabase project, not a token: send the access token of a signed-in user"
    )]
    ApiKey,
    #[error("The token is not a JWT")]
    Malformed,
    #[error("The token must be signed with ES256, RS256 or HS256")]
    Algorithm,
    #[error("The token asks for an extension (crit) that is not supported")]
    Critical,
    #[error("No key of this project has signed the token")]
    Signature,
    #[error("The token has no date of expiry (exp) that is a number")]
    Expiry,
    #[error("The token has expired")]
    Expired,
    #[error("The token has a beginning (nbf) that is not a number")]
    Beginning,
    #[error("The token is not valid yet (nbf)")]
    NotYet,
    #[error("The token is not from this project (iss)")]
    Issuer,
    #[error("The token is not for authenticated users (aud)")]
    Audience,
    #[error("The token names no user (sub must be a uuid)")]
    Subject,
    #[error("The token has no role")]
    Role,
    #[error("The token's role is not let in here: send the access token of a signed-in user")]
    OtherRole,
    #[error(
        "This is the project's anon key, which names no user: send the access token of a signed-in user"
    )]
    AnonKey,
    #[error("Anonymous sign-ins are not let in here")]
    Anonymous,
    #[error("The service role is not let in here")]
    ServiceRole,
}

impl Refusal {
    /// The token is in order, and whom it proves is not let in.
    pub fn is_forbidden(self) -> bool {
        matches!(
            self,
            Self::OtherRole | Self::AnonKey | Self::Anonymous | Self::ServiceRole
        )
    }
}

/// A token that nobody has verified yet.
pub struct Token<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    /// Header and claims, as they were signed.
    message: &'a str,
    claims: &'a str,
    signature: &'a str,
}

impl<'a> Token<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Refusal> {
        if text.len() > MAX_TOKEN {
            return Err(Refusal::TooLong);
        }
        if text.starts_with("sb_") {
            return Err(Refusal::ApiKey);
        }
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !text.bytes().all(|byte| byte == b'.' || is_base64(byte)) {
            return Err(Refusal::Malformed);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(Refusal::Malformed)?;
        if claims.contains('.') {
            return Err(Refusal::Malformed);
        }
        let header = object(header)?;
        let algorithm = match header.get("alg").and_then(Value::as_str) {
            Some("ES256") => Algorithm::ES256,
            Some("RS256") => Algorithm::RS256,
            Some("HS256") => Algorithm::HS256,
            _ => return Err(Refusal::Algorithm),
        };
        if header.contains_key("crit") {
            return Err(Refusal::Critical);
        }
        let kid = match header.get("kid") {
            None | Some(Value::Null) => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Refusal::Malformed),
        };
        Ok(Self {
            algorithm,
            kid,
            message,
            claims,
            signature,
        })
    }

    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether it says to be signed with a secret rather than with a key of a pair.
    pub fn is_symmetric(&self) -> bool {
        self.algorithm == Algorithm::HS256
    }

    /// The claims, if one of these keys has signed them, each by its own algorithm.
    pub fn verify<'k>(
        &self,
        keys: impl Iterator<Item = &'k Key>,
    ) -> Result<Map<String, Value>, Refusal> {
        let mut keys = keys.filter(|key| key.algorithm() == self.algorithm);
        if !keys.any(|key| key.has_signed(self.message, self.signature)) {
            return Err(Refusal::Signature);
        }
        object(self.claims)
    }
}

/// An object in JSON in base64.
fn object(part: &str) -> Result<Map<String, Value>, Refusal> {
    let json = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| Refusal::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| Refusal::Malformed)
}

impl Rules {
    /// Whom verified claims prove, at this time (seconds since 1970).
    pub fn caller(&self, claims: Map<String, Value>, now: u64) -> Result<Caller, Refusal> {
        in_time(&claims, now)?;
        match text(&claims, "role").ok_or(Refusal::Role)? {
            AUTHENTICATED => self.user(claims).map(Caller::User),
            "service_role" => self.backend(&claims),
            "anon" => Err(Refusal::AnonKey),
            _ => Err(Refusal::OtherRole),
        }
    }

    fn user(&self, claims: Map<String, Value>) -> Result<User, Refusal> {
        if !self.is_issued_by(&claims, &[]) {
            return Err(Refusal::Issuer);
        }
        let is_ours = |audience: &Value| audience == AUTHENTICATED;
        match claims.get("aud") {
            Some(Value::Array(audiences)) if audiences.iter().any(is_ours) => {}
            Some(audience) if is_ours(audience) => {}
            _ => return Err(Refusal::Audience),
        }
        let id = text(&claims, "sub")
            .and_then(canonical_uuid)
            .ok_or(Refusal::Subject)?;
        // Whatever is not plainly a "no" is a "yes".
        let is_anonymous = !matches!(
            claims.get("is_anonymous"),
            None | Some(Value::Null | Value::Bool(false))
        );
        if is_anonymous && !self.allow_anonymous {
            return Err(Refusal::Anonymous);
        }
        let claims = claims.into();
        Ok(User { id, claims })
    }

    /// A `service_role` key is a token that names nobody (no `sub`) and is for nobody in particular (no `aud`). It has a
    /// signature, dates, a role, and an issuer.
    fn backend(&self, claims: &Map<String, Value>) -> Result<Caller, Refusal> {
        if !self.is_issued_by(claims, &API_KEY_ISSUERS) {
            return Err(Refusal::Issuer);
        }
        if self.allow_service_role {
            Ok(Caller::System)
        } else {
            Err(Refusal::ServiceRole)
        }
    }

    /// Where the project is not known, any issuer will do.
    fn is_issued_by(&self, claims: &Map<String, Value>, others: &[&str]) -> bool {
        let Some(project) = &self.issuer else {
            return true;
        };
        text(claims, "iss").is_some_and(|issuer| issuer == project || others.contains(&issuer))
    }
}

/// jsonwebtoken's own check of the dates is not used: it reads the clock itself, and takes no number for one where
/// serde_json keeps numbers as they were written (arbitrary_precision).
fn in_time(claims: &Map<String, Value>, now: u64) -> Result<(), Refusal> {
    let now = now as f64;
    let expiry = claims
        .get("exp")
        .and_then(Value::as_f64)
        .ok_or(Refusal::Expiry)?;
    if now >= expiry + LEEWAY {
        return Err(Refusal::Expired);
    }
    if let Some(beginning) = claims.get("nbf") {
        let beginning = beginning.as_f64().ok_or(Refusal::Beginning)?;
        if now + LEEWAY < beginning {
            return Err(Refusal::NotYet);
        }
    }
    Ok(())
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claims.get(name)?.as_str()
}

/// Only as Supabase writes it: other spellings of the same user would read differently to a policy.
fn canonical_uuid(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    (id.to_string() == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn claims(changes: Value) -> Map<String, Value> {
        let mut claims = json!({
            "role": "authenticated", "aud": "authenticated", "iss": "https://project/auth/v1", "exp": NOW + 3600,
            "sub": "11111111-2222-4333-8444-555555555555",
        });
        for (name, value) in changes.as_object().expect("changes") {
            claims[name] = value.clone();
        }
        claims.as_object().expect("claims").clone()
    }

    fn judge(changes: Value) -> Result<String, Refusal> {
        let rules = Rules {
            issuer: Some("https://project/auth/v1".to_owned()),
            ..Rules::default()
        };
        rules
            .caller(claims(changes), NOW)
            .map(|caller| caller.owner())
    }

    #[test]
    fn the_leeway_is_thirty_seconds_on_both_sides() {
        let user = Ok("11111111-2222-4333-8444-555555555555".to_owned());
        assert_eq!(judge(json!({"exp": NOW - 29})), user);
        assert_eq!(judge(json!({"exp": NOW as f64 - 29.5})), user);
        assert_eq!(judge(json!({"exp": NOW - 30})), Err(Refusal::Expired));
        assert_eq!(judge(json!({"nbf": NOW + 30})), user);
        assert_eq!(judge(json!({"nbf": NOW + 31})), Err(Refusal::NotYet));
        assert_eq!(judge(json!({"nbf": 0})), user);
    }

    #[test]
    fn dates_are_numbers() {
        for no_date in [
            "\"1900000000\"",
            "null",
            "true",
            "[1900000000]",
            "{}",
            "1e400",
            "-1e400",
        ] {
            let no_date: Value = serde_json::from_str(no_date).unwrap_or(Value::Null);
            assert_eq!(
                judge(json!({"exp": no_date})),
                Err(Refusal::Expiry),
                "{no_date}"
            );
            assert_eq!(
                judge(json!({"nbf": no_date})),
                Err(Refusal::Beginning),
                "{no_date}"
            );
        }
        for past in [
            "-1",
            "-1e308",
            "0",
            "-0.0",
            "1.5",
            "-99999999999999999999999999",
        ] {
            let past: Value = serde_json::from_str(past).expect("a number");
            assert_eq!(judge(json!({"exp": past})), Err(Refusal::Expired), "{past}");
            assert!(judge(json!({"nbf": past})).is_ok(), "{past}");
        }
        for future in [
            "1e308",
            "99999999999999999999999999",
            "18446744073709551615",
        ] {
            let future: Value = serde_json::from_str(future).expect("a number");
            assert!(judge(json!({"exp": future})).is_ok(), "{future}");
            assert_eq!(
                judge(json!({"nbf": future})),
                Err(Refusal::NotYet),
                "{future}"
            );
        }
    }

    #[test]
    fn where_the_project_is_not_known_any_issuer_will_do() {
        let changes = json!({"iss": "https://other/auth/v1"});
        assert_eq!(judge(changes.clone()), Err(Refusal::Issuer));
        assert!(Rules::default().caller(claims(changes), NOW).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_none_is_verified(text in "\\PC*", header in "\\PC{0,40}", claims in "\\PC{0,40}") {
            let key = Key::secret(&[7; 32]);
            let encoded = format!("{}.{}.{text}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            for text in [text, encoded] {
                if let Ok(token) = Token::parse(&text) {
                    prop_assert!(token.verify([&key].into_iter()).is_err());
                }
            }
        }

        #[test]
        fn no_bytes_after_a_good_header_are_verified(rest in "[A-Za-z0-9_.=-]{0,80}") {
            let key = Key::secret(&[7; 32]);
            let text = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#));
            if let Ok(token) = Token::parse(&text) {
                prop_assert!(token.verify([&key].into_iter()).is_err());
            }
        }
    }
}
