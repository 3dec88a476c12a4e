//! The keys that a project's tokens are verified with. A key knows its one algorithm; what a token's header says about
//! that is only compared with it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use tracing::debug;

/// No project has as many; and a token without `kid` is tried with each.
const MAX_KEYS: usize = 16;

/// 2048 to 8192 bits, in bytes.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

#[derive(Debug, Clone)]
pub struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// What a project publishes.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<Key>);

/// It is no JWKS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJwks;

/// A key as RFC 7517 writes it.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Key {
    /// A legacy project's secret.
    pub fn secret(bytes: &[u8]) -> Self {
        Self {
            kid: None,
            algorithm: Algorithm::HS256,
            key: DecodingKey::from_secret(bytes),
        }
    }

    /// The error says why the key is of no use.
    fn published(jwk: Value) -> Result<Self, &'static str> {
        let jwk: Jwk = serde_json::from_value(jwk).map_err(|_| "it is malformed")?;
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        if jwk.usage.is_some_and(|usage| usage != "sig")
            || !jwk.key_ops.as_ref().is_none_or(verifies)
        {
            return Err("it is not for verifying");
        }
        let part = |text: Option<String>| {
            text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
                .ok_or("a part of it is missing")
        };
        // A symmetric key that is published is no secret: `oct` is not among these.
        let (name, algorithm, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("EC", Some("P-256")) => {
                let (x, y) = (part(jwk.x)?, part(jwk.y)?);
                if (x.len(), y.len()) != (32, 32) {
                    return Err("its point is of another size");
                }
                let point = [&[4], x.as_slice(), &y].concat();
                ("ES256", Algorithm::ES256, DecodingKey::from_ec_der(&point))
            }
            ("RSA", _) => {
                let (n, e) = (part(jwk.n)?, part(jwk.e)?);
                if !RSA_MODULUS.contains(&n.len()) {
                    return Err("its modulus is too short or too long");
                }
                (
                    "RS256",
                    Algorithm::RS256,
                    DecodingKey::from_rsa_raw_components(&n, &e),
                )
            }
            _ => return Err("it is of another type"),
        };
        if jwk.alg.is_some_and(|alg| alg != name) {
            return Err("it is for another algorithm");
        }
        Ok(Self {
            kid: jwk.kid,
            algorithm,
            key,
        })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn has_signed(&self, message: &str, signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, self.algorithm)
            .unwrap_or(false)
    }
}

impl Keys {
    /// Those of a JWKS that are of use; a broken one does not spoil the others.
    pub fn parse(jwks: &[u8]) -> Result<Self, NotJwks> {
        #[derive(Deserialize)]
        struct Jwks {
            keys: Vec<Value>,
        }
        let Jwks { keys } = serde_json::from_slice(jwks).map_err(|_| NotJwks)?;
        let usable = keys.into_iter().filter_map(|jwk| {
            let kid = jwk.get("kid").cloned();
            Key::published(jwk)
                .inspect_err(|reason| debug!(?kid, reason, "a published key is not used"))
                .ok()
        });
        Ok(Self(usable.take(MAX_KEYS).collect()))
    }

    /// Whether a token that names this key can be verified, or refused, with what there is.
    pub fn know(&self, kid: Option<&str>) -> bool {
        kid.is_none() || self.named(kid).next().is_some()
    }

    /// The keys that may have signed a token that names this one, or none.
    pub fn named<'a>(&'a self, kid: Option<&'a str>) -> impl Iterator<Item = &'a Key> {
        self.0
            .iter()
            .filter(move |key| kid.is_none() || key.kid.as_deref() == kid)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn count(keys: Value) -> usize {
        let jwks = json!({ "keys": keys }).to_string();
        Keys::parse(jwks.as_bytes()).expect("a JWKS").count()
    }

    #[test]
    fn only_keys_that_can_verify_are_kept() {
        let coordinate = "A".repeat(43);
        let ec = json!({"kty": "EC", "crv": "P-256", "kid": "a", "x": coordinate, "y": coordinate});
        let rsa = json!({"kty": "RSA", "kid": "b", "n": "A".repeat(342), "e": "AQAB"});
        assert_eq!(count(json!([ec, rsa])), 2);
        let with = |key: &Value, name: &str, value: Value| {
            let mut key = key.clone();
            key[name] = value;
            key
        };
        for good in [
            with(&ec, "alg", json!("ES256")),
            with(&rsa, "use", json!("sig")),
            with(&ec, "key_ops", json!(["verify"])),
            with(&ec, "kid", Value::Null),
        ] {
            assert_eq!(count(json!([good])), 1, "{good}");
        }
        for bad in [
            json!({"kty": "oct", "k": coordinate, "alg": "HS256"}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": coordinate}),
            with(&ec, "crv", json!("P-384")),
            with(&ec, "x", json!("AAAA")),
            with(&ec, "y", Value::Null),
            with(&ec, "x", json!("!")),
            with(&ec, "alg", json!("ES384")),
            with(&rsa, "alg", json!("PS256")),
            with(&rsa, "alg", json!("HS256")),
            with(&rsa, "n", json!("A".repeat(171))),
            with(&rsa, "n", json!("A".repeat(2000))),
            with(&rsa, "use", json!("enc")),
            with(&ec, "key_ops", json!(["sign"])),
            with(&ec, "kid", json!(1)),
            json!("text"),
            json!(null),
        ] {
            assert_eq!(count(json!([bad])), 0, "{bad}");
            assert_eq!(count(json!([bad, ec])), 1, "{bad}");
        }
        assert_eq!(count(json!(vec![ec; 100])), MAX_KEYS);
        assert_eq!(count(json!([])), 0);
    }
}
