//! Who is calling: hostile requests, one after the other, at a worker whose project has an elliptic key, an RSA key and a
//! legacy secret.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use std::time::Instant;
use uuid::Uuid;

use crate::support::jwks::{JwksServer, Publishes};
use crate::support::tokens::{SECRET, SigningKey, encode, now};
use crate::support::worker::exchange;
use crate::support::{Project, TestWorker, eventually};

const USER: Uuid = Uuid::from_u128(0x11111111_2222_4333_8444_555555555555);

/// Where an authenticated caller finds nothing: 404.
const MISSING: &str = "GET /assistants/6f1f1f1f-0000-4000-8000-00000000beef HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";

/// A request, and the right answer to it.
struct Case {
    name: String,
    /// Header lines.
    headers: String,
    status: u16,
    /// In the answer's detail.
    says: &'static str,
    /// Whether it may make the worker ask for the keys again.
    asks: bool,
}

#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    fn headers(&mut self, name: &str, headers: &str, status: u16, says: &'static str) {
        self.0.push(Case {
            name: name.to_owned(),
            headers: headers.to_owned(),
            status,
            says,
            asks: false,
        });
    }

    fn token(&mut self, name: &str, token: &str, status: u16, says: &'static str) {
        self.headers(
            name,
            &format!("authorization: Bearer {token}\r\n"),
            status,
            says,
        );
    }

    fn good(&mut self, name: &str, token: &str) {
        self.token(name, token, 404, "Not Found");
    }

    /// It names a key that nobody knows.
    fn unknown(&mut self, name: &str, token: &str) {
        self.token(name, token, 401, NOBODY);
        if let Some(case) = self.0.last_mut() {
            case.asks = true;
        }
    }
}

const NOBODY: &str = "No key of this project has signed the token";
const NO_JWT: &str = "not a JWT";
const ALGORITHM: &str = "must be signed with ES256, RS256 or HS256";
const BEARER: &str = "must be `Bearer <access token>`";
const API_KEY: &str = "This is an API key";

#[tokio::test]
async fn hostile_requests_get_the_right_answer() {
    let project = Project::with_secret().await;
    let rsa = SigningKey::rsa(0, "rsa");
    project.server.publish(Publishes::Keys(vec![
        json!({"kty": "EC", "kid": "broken"}),
        json!("not even an object"),
        project.key.jwk.clone(),
        rsa.jwk.clone(),
        // Published, so no secret; and of the same name as nothing else.
        SigningKey::secret(b"a published key is not a secret at all").jwk,
    ]));
    let elsewhere =
        JwksServer::start(Publishes::Keys(vec![SigningKey::elliptic("current").jwk])).await;
    let worker = TestWorker::start_with(&project.variables()).await;
    eventually("the keys are fetched", || async {
        let fetches = project.server.fetches();
        (fetches == 1)
            .then_some(())
            .ok_or_else(|| fetches.to_string())
    })
    .await;

    let mut table = Table::default();
    headers(&mut table, &project);
    forms(&mut table, &project);
    algorithms(&mut table, &project, &rsa);
    signatures(&mut table, &project, &rsa, &elsewhere);
    claims(&mut table, &project);
    callers(&mut table, &project);
    good(&mut table, &project, &rsa);
    let hostile = table.0.iter().filter(|case| case.status != 404).count();
    assert!(hostile >= 60, "{hostile}");

    let began = Instant::now();
    let mut asked = 0;
    for case in &table.0 {
        let before = project.server.fetches();
        let bytes = format!("{MISSING}{}\r\n", case.headers);
        let (status, head, body) = exchange(worker.api, &bytes).await;
        let name = &case.name;
        assert!(
            status == case.status && body.contains(case.says),
            "{name}: {head}\n{body}"
        );
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        assert!(
            answer.as_object().is_some_and(|answer| answer.len() == 1),
            "{name}: {answer}"
        );
        let challenge = head
            .lines()
            .find_map(|line| line.strip_prefix("www-authenticate: "));
        let expected = match case.status {
            // One token was sent.
            401 if case.headers.starts_with("authorization: Bearer ey")
                && case.headers.lines().count() == 1 =>
            {
                Some(r#"bearer error="invalid_token""#)
            }
            401 => challenge.filter(|challenge| challenge.starts_with("bearer")),
            403 => Some(r#"bearer error="insufficient_scope""#),
            _ => None,
        };
        assert!(
            challenge == expected && (status != 401 || expected.is_some()),
            "{name}: {head}"
        );
        let fetches = project.server.fetches() - before;
        assert!(fetches == 0 || case.asks, "{name}: {fetches} fetches");
        asked += fetches;
    }
    // One request in ten seconds, whatever they name.
    assert!(
        asked >= 1 && asked as u64 <= 1 + began.elapsed().as_secs() / 10,
        "{asked}"
    );
    assert_eq!(
        elsewhere.fetches(),
        0,
        "a token said where to look for its key"
    );
    worker.stop().await;
}

fn headers(table: &mut Table, project: &Project) {
    let token = project.token(USER);
    table.headers("no header", "", 401, "Not authenticated");
    table.headers("an empty header", "authorization:\r\n", 401, BEARER);
    table.headers("only the scheme", "authorization: Bearer\r\n", 401, BEARER);
    table.headers(
        "only the scheme and blanks",
        "authorization: Bearer   \r\n",
        401,
        BEARER,
    );
    table.headers(
        "basic",
        "authorization: Basic dXNlcjpwYXNz\r\n",
        401,
        BEARER,
    );
    table.headers(
        "another scheme",
        &format!("authorization: Token {token}\r\n"),
        401,
        BEARER,
    );
    table.headers(
        "no scheme",
        &format!("authorization: {token}\r\n"),
        401,
        BEARER,
    );
    table.headers(
        "no blank",
        &format!("authorization: Bearer{token}\r\n"),
        401,
        BEARER,
    );
    let header = format!("authorization: Bearer {token}\r\n");
    table.headers(
        "twice",
        &header.repeat(2),
        401,
        "more than one Authorization header",
    );
    table.headers(
        "two schemes",
        &format!("authorization: Basic eA==\r\n{header}"),
        401,
        "more than one",
    );
    table.token("a list", &format!("{token},{token}"), 401, NO_JWT);
    table.token("two", &format!("{token} {token}"), 401, NO_JWT);
    table.token("beyond ASCII", &format!("{token}é"), 401, NO_JWT);
    table.token("a tab", &format!("{token}\tx"), 401, NO_JWT);
    table.token("quoted", &format!("\"{token}\""), 401, NO_JWT);
    table.headers(
        "another header",
        &format!("apikey: {token}\r\n"),
        401,
        "Not authenticated",
    );
    table.token(
        "a secret key",
        "sb_secret_abcdefghijklmnopqrstuv_wxyz0123",
        401,
        API_KEY,
    );
    table.token(
        "a publishable key",
        "sb_publishable_abcdefghijklmnopqrstuv_wxyz0123",
        401,
        API_KEY,
    );
    let large = project.token_with(USER, json!({"user_metadata": "x".repeat(8192)}));
    table.token("oversized", &large, 401, "longer than 8192 bytes");
    table.token(
        "oversized junk",
        &"a.".repeat(15_000),
        401,
        "longer than 8192 bytes",
    );
}

fn forms(table: &mut Table, project: &Project) {
    let (key, token) = (&project.key, project.token(USER));
    let claims = project.claims(USER, json!({})).to_string();
    table.token("a word", "x", 401, NO_JWT);
    table.token("three letters", "a.b.c", 401, NO_JWT);
    table.token("dots", "..", 401, NO_JWT);
    table.token(
        "two parts",
        token.rsplit_once('.').expect("parts").0,
        401,
        NO_JWT,
    );
    table.token("four parts", &format!("{token}.x"), 401, NO_JWT);
    table.token(
        "five parts, encrypted",
        "eyJhbGciOiJSU0EtT0FFUCJ9.a.b.c.d",
        401,
        NO_JWT,
    );
    table.token("padded", &format!("{token}=="), 401, NO_JWT);
    table.token(
        "a header that is no object",
        &key.sign_text("[]", &claims),
        401,
        NO_JWT,
    );
    table.token(
        "a header that is no JSON",
        &key.sign_text("{", &claims),
        401,
        NO_JWT,
    );
    let header = r#"{"alg":"ES256","kid":"current"}"#;
    table.token(
        "claims that are a list",
        &key.sign_text(header, "[]"),
        401,
        NO_JWT,
    );
    table.token(
        "claims that are no JSON",
        &key.sign_text(header, "exp"),
        401,
        NO_JWT,
    );
    table.token("no claims", &key.sign_text(header, ""), 401, NO_JWT);
    table.token(
        "claims too deep",
        &key.sign_text(header, &format!("{{\"a\":{}", "[".repeat(5000))),
        401,
        NO_JWT,
    );
    let with = |name: &str, value: Value| {
        let mut header = json!({"alg": "ES256", "kid": "current"});
        header[name] = value;
        key.sign_with(&header, &project.claims(USER, json!({})))
    };
    table.token("crit", &with("crit", json!(["b64"])), 401, "(crit)");
    table.token("an empty crit", &with("crit", json!([])), 401, "(crit)");
    table.token("a numeric kid", &with("kid", json!(1)), 401, NO_JWT);
    table.token(
        "a list of kids",
        &with("kid", json!(["current"])),
        401,
        NO_JWT,
    );
}

fn algorithms(table: &mut Table, project: &Project, rsa: &SigningKey) {
    let claims = project.claims(USER, json!({}));
    let secret = project.secret.as_ref().expect("a secret");
    for alg in [
        "none", "None", "NONE", "nOnE", "", "es256", "HS384", "HS512", "ES384", "RS512", "PS256",
        "EdDSA",
    ] {
        let header = json!({"alg": alg, "kid": "current"});
        table.token(
            alg,
            &project.key.sign_with(&header, &claims),
            401,
            ALGORITHM,
        );
    }
    let unsigned = |header: Value| {
        format!(
            "{}.{}.",
            encode(header.to_string()),
            encode(claims.to_string())
        )
    };
    table.token(
        "none, unsigned",
        &unsigned(json!({"alg": "none"})),
        401,
        ALGORITHM,
    );
    table.token(
        "ES256, unsigned",
        &unsigned(json!({"alg": "ES256", "kid": "current"})),
        401,
        NOBODY,
    );
    table.token(
        "HS256, unsigned",
        &unsigned(json!({"alg": "HS256"})),
        401,
        NOBODY,
    );
    table.token(
        "no alg",
        &secret.sign_with(&json!({}), &claims),
        401,
        ALGORITHM,
    );
    table.token(
        "a numeric alg",
        &secret.sign_with(&json!({"alg": 256}), &claims),
        401,
        ALGORITHM,
    );
    let long = format!(
        "{}.{}",
        encode(r#"{"alg":"HS512"}"#),
        encode(claims.to_string())
    );
    let signed = format!("{long}.{}", secret.signature(&long, Algorithm::HS512));
    table.token("HS512 with the secret", &signed, 401, ALGORITHM);
    let header = json!({"alg": "RS256", "kid": "current"});
    table.token(
        "RS256 in the name of an elliptic key",
        &rsa.sign_with(&header, &claims),
        401,
        NOBODY,
    );
    let header = json!({"alg": "ES256", "kid": "rsa"});
    table.token(
        "ES256 in the name of an RSA key",
        &project.key.sign_with(&header, &claims),
        401,
        NOBODY,
    );

    // Well signed, but not with what the header says.
    for header in [
        json!({"alg": "RS256", "kid": "current"}),
        json!({"alg": "HS256", "kid": "current"}),
        json!({"alg": "RS256"}),
    ] {
        let token = project.key.sign_with(&header, &claims);
        table.token(&format!("ES256 under {header}"), &token, 401, NOBODY);
    }

    // What is public is no secret, in whichever form.
    for (kind, key) in [("elliptic", &project.key), ("RSA", rsa)] {
        let body = |pem: &str| {
            pem.lines()
                .filter(|line| !line.starts_with('-'))
                .collect::<String>()
        };
        let parts =
            ["x", "y", "n"].map(|name| key.jwk[name].as_str().unwrap_or_default().to_owned());
        let mut forms: Vec<(String, Vec<u8>)> = vec![
            ("PEM".to_owned(), key.pem.clone().into_bytes()),
            (
                "PEM, trimmed".to_owned(),
                key.pem.trim().as_bytes().to_vec(),
            ),
            ("base64 of the DER".to_owned(), body(&key.pem).into_bytes()),
            ("bytes".to_owned(), key.raw.clone()),
            ("JWK".to_owned(), key.jwk.to_string().into_bytes()),
            (
                "JWKS".to_owned(),
                json!({"keys": [key.jwk]}).to_string().into_bytes(),
            ),
            (
                "x".to_owned(),
                key.raw.get(1..33).unwrap_or_default().to_vec(),
            ),
            (
                "n".to_owned(),
                key.raw[key.raw.len().saturating_sub(261)..key.raw.len() - 5].to_vec(),
            ),
        ];
        forms.extend(
            parts
                .into_iter()
                .filter(|part| !part.is_empty())
                .map(|part| ("a part's text".to_owned(), part.into_bytes())),
        );
        for (form, bytes) in forms {
            let forger = SigningKey::secret(&bytes);
            let with_kid = forger.sign_with(&json!({"alg": "HS256", "kid": key.kid}), &claims);
            table.token(
                &format!("HS256 with the {kind} key ({form})"),
                &with_kid,
                401,
                NOBODY,
            );
            let without = forger.sign_with(&json!({"alg": "HS256"}), &claims);
            table.token(
                &format!("HS256 with the {kind} key ({form}), no kid"),
                &without,
                401,
                NOBODY,
            );
        }
    }
    for (name, bytes) in [
        ("another", b"another secret of thirty-two bytes".as_slice()),
        ("an empty", b""),
        ("a published", b"a published key is not a secret at all"),
    ] {
        table.token(
            &format!("HS256 with {name} secret"),
            &SigningKey::secret(bytes).sign(&claims),
            401,
            NOBODY,
        );
    }
    let text = SigningKey::secret(encode(SECRET).as_bytes());
    table.token(
        "HS256 with the secret in base64",
        &text.sign(&claims),
        401,
        NOBODY,
    );
}

fn signatures(table: &mut Table, project: &Project, rsa: &SigningKey, elsewhere: &JwksServer) {
    let (key, claims) = (&project.key, project.claims(USER, json!({})));
    let forger = SigningKey::elliptic("current");
    let forged_rsa = SigningKey::rsa(1, "rsa");
    table.token("forged, ES256", &forger.sign(&claims), 401, NOBODY);
    table.token("forged, RS256", &forged_rsa.sign(&claims), 401, NOBODY);
    table.token(
        "forged, ES256, no kid",
        &forger.sign_with(&json!({"alg": "ES256"}), &claims),
        401,
        NOBODY,
    );
    table.token(
        "forged, RS256, no kid",
        &forged_rsa.sign_with(&json!({"alg": "RS256"}), &claims),
        401,
        NOBODY,
    );
    for (name, value) in [
        ("jwk", forger.jwk.clone()),
        (
            "jku",
            json!(format!("{}{}", elsewhere.url(), crate::support::jwks::PATH)),
        ),
        ("x5u", json!(elsewhere.url())),
        ("x5c", json!([encode(&forger.raw)])),
    ] {
        let mut header = json!({"alg": "ES256", "kid": "current"});
        header[name] = value;
        table.token(
            &format!("forged, with its key as {name}"),
            &forger.sign_with(&header, &claims),
            401,
            NOBODY,
        );
    }
    let token = project.token(USER);
    let (message, signature) = token.rsplit_once('.').expect("parts");
    let sign = |signature: &str| format!("{message}.{signature}");
    table.token("a signature of zeros", &sign(&encode([0; 64])), 401, NOBODY);
    table.token(
        "a signature cut short",
        &sign(&signature[..40]),
        401,
        NOBODY,
    );
    table.token("a signature that is no base64", &sign("!!!"), 401, NO_JWT);
    table.token("no signature", &sign(""), 401, NOBODY);
    let other = key.signature("something else", Algorithm::ES256);
    table.token("a signature of something else", &sign(&other), 401, NOBODY);
    let header = message.split('.').next().expect("a header");
    let system = project.claims(USER, json!({"role": "service_role"}));
    table.token(
        "other claims",
        &format!("{header}.{}.{signature}", encode(system.to_string())),
        401,
        NOBODY,
    );
    for kid in [
        "nobody's",
        "",
        "../../../dev/null",
        "' or 1=1 --",
        "legacy",
        "broken",
        "current ",
        "CURRENT",
        &"k".repeat(4000),
    ] {
        let header = json!({"alg": "ES256", "kid": kid});
        table.unknown(
            &format!("kid {}", &kid[..kid.len().min(20)]),
            &key.sign_with(&header, &claims),
        );
        let header = json!({"alg": "RS256", "kid": kid});
        table.unknown(
            &format!("kid {}, RSA", &kid[..kid.len().min(20)]),
            &rsa.sign_with(&header, &claims),
        );
    }
}

fn claims(table: &mut Table, project: &Project) {
    let mut refused = |changes: Value, says: &'static str| {
        table.token(
            &changes.to_string(),
            &project.token_with(USER, changes.clone()),
            401,
            says,
        );
    };
    let later = now() + 600;
    refused(json!({"exp": now() - 3600}), "has expired");
    refused(json!({"exp": now() - 45}), "has expired");
    refused(json!({"exp": -1}), "has expired");
    refused(json!({"exp": 1.5}), "has expired");
    for no_date in [
        json!(null),
        json!(later.to_string()),
        json!(true),
        json!([later]),
        json!({"at": later}),
    ] {
        refused(json!({"exp": no_date}), "(exp)");
    }
    let huge = r#"{"alg":"ES256","kid":"current"}"#;
    let text = project
        .claims(USER, json!({"exp": "HUGE"}))
        .to_string()
        .replace("\"HUGE\"", "1e999");
    let huge = project.key.sign_text(huge, &text);
    refused(json!({"nbf": later}), "not valid yet");
    refused(json!({"nbf": 1e30}), "not valid yet");
    refused(json!({"nbf": now().to_string()}), "(nbf)");
    refused(json!({"nbf": [1]}), "(nbf)");
    let issuer = project.issuer();
    for wrong in [
        json!(null),
        json!("https://other.supabase.co/auth/v1"),
        json!("supabase"),
        json!(format!("{issuer}/")),
        json!([issuer]),
        json!(1),
        json!(""),
    ] {
        refused(json!({"iss": wrong}), "(iss)");
    }
    for wrong in [
        json!(null),
        json!("anon"),
        json!(["anon", "x"]),
        json!([]),
        json!(""),
        json!("authenticated2"),
        json!({"authenticated": true}),
        json!([["authenticated"]]),
        json!(true),
    ] {
        refused(json!({"aud": wrong}), "(aud)");
    }
    let uuid = USER.simple().to_string();
    for wrong in [
        json!(null),
        json!(""),
        json!("dev"),
        json!("system"),
        json!(1),
        json!([USER]),
        json!(uuid),
        json!(format!("{{{USER}}}")),
        json!(format!("urn:uuid:{USER}")),
        json!(format!("{USER} ")),
    ] {
        refused(json!({"sub": wrong}), "(sub must be a uuid)");
    }
    for wrong in [json!(null), json!(1), json!(["authenticated"])] {
        refused(json!({"role": wrong}), "has no role");
    }
    table.token("an endless exp", &huge, 401, "(exp)");
}

fn callers(table: &mut Table, project: &Project) {
    let mut forbidden = |changes: Value, says: &'static str| {
        table.token(
            &changes.to_string(),
            &project.token_with(USER, changes.clone()),
            403,
            says,
        );
    };
    for role in [
        "postgres",
        "supabase_admin",
        "AUTHENTICATED",
        "",
        "authenticator",
    ] {
        forbidden(json!({"role": role}), "role is not let in");
    }
    for anonymous in [json!(true), json!("true"), json!(1), json!({})] {
        forbidden(json!({"is_anonymous": anonymous}), "Anonymous sign-ins");
    }
    forbidden(
        json!({"role": "service_role"}),
        "The service role is not let in",
    );
    forbidden(json!({"role": "anon"}), "the project's anon key");
    table.token(
        "the anon key",
        &project.api_key("anon"),
        403,
        "the project's anon key",
    );
    table.token(
        "the service role's key",
        &project.service_role(),
        403,
        "The service role is not let in",
    );
}

fn good(table: &mut Table, project: &Project, rsa: &SigningKey) {
    let claims = project.claims(USER, json!({}));
    let token = project.token(USER);
    let secret = project.secret.as_ref().expect("a secret");
    table.good("ES256", &token);
    table.good("RS256", &rsa.sign(&claims));
    table.good("HS256", &secret.sign(&claims));
    table.good(
        "HS256, no kid",
        &secret.sign_with(&json!({"alg": "HS256"}), &claims),
    );
    table.good(
        "ES256, no kid",
        &project.key.sign_with(&json!({"alg": "ES256"}), &claims),
    );
    table.good(
        "ES256, null kid",
        &project
            .key
            .sign_with(&json!({"alg": "ES256", "kid": null}), &claims),
    );
    table.good(
        "RS256, no kid",
        &rsa.sign_with(&json!({"alg": "RS256"}), &claims),
    );
    for changes in [
        json!({"aud": ["x", "authenticated"]}),
        json!({"exp": now() as f64 + 600.5}),
        json!({"exp": now() - 10}),
        json!({"nbf": now()}),
        json!({"nbf": now() + 10}),
        json!({"is_anonymous": null}),
    ] {
        table.good(
            &changes.to_string(),
            &project.token_with(USER, changes.clone()),
        );
    }
    for header in ["bearer", "BEARER", "Bearer   "] {
        table.headers(
            header,
            &format!("authorization: {header} {token}\r\n"),
            404,
            "Not Found",
        );
    }
    table.headers(
        "an apikey besides",
        &format!("apikey: sb_publishable_x\r\nauthorization: Bearer {token}\r\n"),
        404,
        "Not Found",
    );
    // Base64 makes four of three: lengths are met exactly, or not at all.
    let of_length = |length: usize| {
        let tokens = (0..9000)
            .map(|more| project.token_with(USER, json!({"user_metadata": "x".repeat(more)})));
        tokens
            .skip(5000)
            .find(|token| token.len() >= length)
            .expect("a length")
    };
    let largest = of_length(8190);
    assert!((8190..=8192).contains(&largest.len()), "{}", largest.len());
    table.good("as large as can be", &largest);
}
