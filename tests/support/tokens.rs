//! A Supabase project as far as callers are concerned: its keys, a server that publishes them, and tokens.
//!
//! ```ignore
//! let project = Project::new().await;
//! let worker = TestWorker::start(&db, &project.variables()).await;
//! worker.create_as(&project.token(user), body).await;
//! ```

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_sync::config::{SUPABASE_JWT_SECRET, SUPABASE_URL};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::jwks::{JwksServer, Publishes};

/// What legacy projects sign with.
pub const SECRET: &str = "a-jwt-secret-of-a-test-with-at-least-32-bytes";

pub struct Project {
    /// Publishes the project's key.
    pub server: JwksServer,
    /// What tokens are signed with.
    pub key: SigningKey,
    /// `None`: the project has no legacy secret.
    pub secret: Option<SigningKey>,
    url: String,
}

/// A key that signs, and what its public half looks like.
#[derive(Clone)]
pub struct SigningKey {
    pub kid: &'static str,
    pub algorithm: Algorithm,
    key: EncodingKey,
    /// As a JWKS has it.
    pub jwk: Value,
    /// PKCS#1 of an RSA key, the point of an elliptic one.
    pub raw: Vec<u8>,
    /// As OpenSSL writes it.
    pub pem: String,
}

impl Project {
    /// One that signs with ES256, as new projects do.
    pub async fn new() -> Self {
        let key = SigningKey::elliptic("current");
        let server = JwksServer::start(Publishes::Keys(vec![key.jwk.clone()])).await;
        Self {
            url: server.url(),
            server,
            key,
            secret: None,
        }
    }

    /// One that has a legacy secret besides.
    pub async fn with_secret() -> Self {
        Self {
            secret: Some(SigningKey::secret(SECRET.as_bytes())),
            ..Self::new().await
        }
    }

    /// What a worker is to be started with.
    pub fn variables(&self) -> Vec<(&str, &str)> {
        let secret = self.secret.iter().map(|_| (SUPABASE_JWT_SECRET, SECRET));
        [(SUPABASE_URL, self.url.as_str())]
            .into_iter()
            .chain(secret)
            .collect()
    }

    pub fn issuer(&self) -> String {
        format!("{}/auth/v1", self.url)
    }

    /// The access token of a signed-in user.
    pub fn token(&self, user: Uuid) -> String {
        self.token_with(user, json!({}))
    }

    /// The same with other claims; `null` leaves one out.
    pub fn token_with(&self, user: Uuid, changes: Value) -> String {
        self.key.sign(&self.claims(user, changes))
    }

    pub fn claims(&self, user: Uuid, changes: Value) -> Value {
        let mut claims = json!({
            "iss": self.issuer(), "sub": user, "aud": "authenticated", "role": "authenticated", "exp": now() + 3600,
            "iat": now(), "email": "user@example.com", "aal": "aal1", "session_id": Uuid::new_v4(), "is_anonymous": false,
            "app_metadata": {"provider": "email", "providers": ["email"]}, "user_metadata": {},
        });
        let all = claims.as_object_mut().expect("an object");
        for (name, value) in changes.as_object().expect("changes") {
            match value {
                Value::Null => all.remove(name),
                value => all.insert(name.clone(), value.clone()),
            };
        }
        claims
    }

    /// A key for trusted backends, as legacy projects have it.
    pub fn service_role(&self) -> String {
        self.api_key("service_role")
    }

    pub fn api_key(&self, role: &str) -> String {
        let claims = json!({"iss": "supabase", "ref": "abcdefghijklmnopqrst", "role": role, "iat": now(), "exp": now() + 3600});
        self.secret.as_ref().unwrap_or(&self.key).sign(&claims)
    }

    /// From now on, the project signs with this key, and publishes no other.
    pub fn rotate(&mut self, key: SigningKey) {
        self.server.publish(Publishes::Keys(vec![key.jwk.clone()]));
        self.key = key;
    }
}

impl SigningKey {
    /// P-256, for ES256.
    pub fn elliptic(kid: &'static str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let raw = pair.public_key_raw().to_vec();
        let (x, y) = (encode(&raw[1..33]), encode(&raw[33..]));
        Self {
            kid,
            algorithm: Algorithm::ES256,
            key: EncodingKey::from_ec_der(pair.serialized_der()),
            jwk: json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y, "alg": "ES256", "use": "sig", "key_ops": ["verify"], "ext": true}),
            raw,
            pem: pair.public_key_pem(),
        }
    }

    /// For RS256. Making one takes long: there are two, `0` and `1`.
    pub fn rsa(which: usize, kid: &'static str) -> Self {
        static PAIRS: LazyLock<[KeyPair; 2]> = LazyLock::new(|| {
            [(); 2].map(|()| {
                KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key")
            })
        });
        let pair = &PAIRS[which];
        let raw = pair.public_key_raw().to_vec();
        // PKCS#1: a sequence, the modulus (257 bytes, the first one zero), and the exponent 65537.
        let n = encode(&raw[raw.len() - 5 - 256..raw.len() - 5]);
        Self {
            kid,
            algorithm: Algorithm::RS256,
            // PKCS#8 around PKCS#1.
            key: EncodingKey::from_rsa_der(&pair.serialized_der()[26..]),
            jwk: json!({"kty": "RSA", "kid": kid, "n": n, "e": "AQAB", "alg": "RS256", "use": "sig"}),
            raw,
            pem: pair.public_key_pem(),
        }
    }

    /// For HS256.
    pub fn secret(bytes: &[u8]) -> Self {
        Self {
            kid: "legacy",
            algorithm: Algorithm::HS256,
            key: EncodingKey::from_secret(bytes),
            jwk: json!({"kty": "oct", "kid": "legacy", "k": encode(bytes), "alg": "HS256"}),
            raw: bytes.to_vec(),
            pem: String::new(),
        }
    }

    /// A token that is signed properly.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(
            &json!({"alg": format!("{:?}", self.algorithm), "typ": "JWT", "kid": self.kid}),
            claims,
        )
    }

    /// A token with a header of one's own.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = self.signature(&message, self.algorithm);
        format!("{message}.{signature}")
    }

    pub fn signature(&self, message: &str, algorithm: Algorithm) -> String {
        jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, algorithm).expect("a signature")
    }
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}
