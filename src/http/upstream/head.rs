//! What of a message's head goes on: everything but what is about one connection (RFC 9110, 7.6.1), and how the message is
//! framed, which the connection it goes out on decides. So no message goes on with two lengths. Pure.

use std::net::IpAddr;

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, LOCATION,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Uri, Version};

use crate::http::url::HttpUrl;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Besides those that `Connection` names.
const OF_ONE_CONNECTION: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The only protocol that is switched to. In `h2c`, a client could ask for anything, past the router.
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Where on the upstream a request goes: its path and query as they are, behind the URL's path. `None`: nowhere, as it has no path.
pub fn target(upstream: &HttpUrl, uri: &Uri) -> Option<Uri> {
    let wanted = uri.path_and_query()?;
    if !wanted.as_str().starts_with('/') {
        return None;
    }
    let mut parts = upstream.uri().clone().into_parts();
    parts.path_and_query = match upstream.uri().path().trim_end_matches('/') {
        "" => Some(wanted.clone()),
        prefix => Some(PathAndQuery::try_from(format!("{prefix}{wanted}")).ok()?),
    };
    Uri::from_parts(parts).ok()
}

/// Whether the body is encoded in no other way than in chunks. Other codings would have to be undone here, as `Transfer-Encoding`
/// does not go on.
pub fn is_plainly_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Whether a WebSocket is asked for, or granted.
pub fn is_websocket(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11
        && names(headers, CONNECTION).any(|name| name.eq_ignore_ascii_case(b"upgrade"))
        && names(headers, UPGRADE).any(|name| name.eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
}

/// A request's headers, as they go on for a client at `peer`.
pub fn pass_request(headers: &mut HeaderMap, peer: Option<IpAddr>) {
    // The upstream's own is set when the request is sent.
    let host = headers.remove(HOST);
    end_to_end(headers);
    // Met here already: the client is told to continue as soon as its body is asked for.
    headers.remove(EXPECT);
    if let Some(host) = host {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
    // As far as we can see. Who encrypts in front of us says so.
    headers
        .entry(FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static("http"));
    if let Some(peer) = peer {
        append_peer(headers, peer);
    }
}

/// An answer's headers, as they go on. `is_empty`: no body follows, whatever its length is said to be, as for HEAD.
pub fn pass_answer(headers: &mut HeaderMap, is_empty: bool) {
    if !is_empty || headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    end_to_end(headers);
}

/// A redirect to the upstream leads to the same path here: where the upstream is may be known to nobody but us.
pub fn redirect_here(upstream: &HttpUrl, headers: &mut HeaderMap) {
    let base = upstream.to_string();
    let here = headers.get(LOCATION).and_then(|to| {
        let path = to.to_str().ok()?.strip_prefix(base.trim_end_matches('/'))?;
        // With two slashes it would lead to another server.
        let is_path = path.starts_with('/') && !path.starts_with("//") && !path.starts_with("/\\");
        HeaderValue::from_str(path).ok().filter(|_| is_path)
    });
    if let Some(here) = here {
        headers.insert(LOCATION, here);
    }
}

/// Of a message that switches to WebSocket: what says so.
pub fn switch(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
}

fn end_to_end(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = names(headers, CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    for name in named.iter().chain(&OF_ONE_CONNECTION) {
        headers.remove(name);
    }
}

/// What a header lists.
fn names(headers: &HeaderMap, header: HeaderName) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header).into_iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// In one line: of several, some servers look at the last one only.
fn append_peer(headers: &mut HeaderMap, peer: IpAddr) {
    let mut line = Vec::new();
    for value in headers.get_all(FORWARDED_FOR) {
        line.extend_from_slice(value.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(peer.to_string().as_bytes());
    if let Ok(line) = HeaderValue::from_bytes(&line) {
        headers.insert(FORWARDED_FOR, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn lines(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn path_and_query_go_on_byte_for_byte() {
        let to = |upstream: &str, uri: &str| {
            let upstream: HttpUrl = upstream.parse().expect(upstream);
            let uri: Uri = uri.parse().expect(uri);
            target(&upstream, &uri).map(|uri| uri.to_string())
        };
        let odd = "//a/../%2e%2E/./%61%2fb;c//?q=%20+&q=/?&&";
        for (upstream, expected) in [
            ("http://host:8123", "http://host:8123"),
            ("https://HOST/", "https://host"),
            ("http://host/api/", "http://host/api"),
            ("http://host/a%20b/c", "http://host/a%20b/c"),
        ] {
            assert_eq!(to(upstream, odd), Some(format!("{expected}{odd}")));
            assert_eq!(to(upstream, "/"), Some(format!("{expected}/")));
            assert_eq!(to(upstream, "/?"), Some(format!("{expected}/?")));
            // Where to is not for the client to say.
            assert_eq!(
                to(upstream, "http://elsewhere:1/x?y"),
                Some(format!("{expected}/x?y"))
            );
            for nowhere in ["*", "elsewhere:1"] {
                assert_eq!(to(upstream, nowhere), None, "{nowhere}");
            }
        }
    }

    #[test]
    fn what_is_about_one_connection_does_not_go_on() {
        let all = [
            ("accept", "*/*"),
            ("connection", "close, X-One ,,x-two"),
            ("connection", "keep-alive, no name"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("proxy-authenticate", "Basic"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x-three"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-one", "1"),
            ("x-one", "1 again"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("x-three", "3 again"),
            ("authorization", "Bearer x"),
        ];
        let kept = [
            "accept: */*",
            "authorization: Bearer x",
            "x-three: 3",
            "x-three: 3 again",
        ];
        let mut answer = headers(&all);
        pass_answer(&mut answer, false);
        assert_eq!(lines(&answer), kept);
        let mut request = headers(&all);
        pass_request(&mut request, None);
        let proto = ["x-forwarded-proto: http"];
        assert_eq!(lines(&request)[..2], kept[..2]);
        assert_eq!(lines(&request)[2..3], proto);
        assert_eq!(lines(&request)[3..], kept[2..]);
    }

    #[test]
    fn the_upstream_learns_whom_it_serves() {
        let peer = Some("192.0.2.7".parse().expect("an address"));
        let mut direct = headers(&[("host", "front:1"), ("expect", "100-continue")]);
        pass_request(&mut direct, peer);
        assert_eq!(
            lines(&direct),
            [
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: front:1",
                "x-forwarded-proto: http"
            ]
        );
        let mut behind_others = headers(&[
            ("host", "inner"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-for", "203.0.113.5, 10.0.0.1"),
            ("x-forwarded-host", "outer"),
            ("x-forwarded-proto", "https"),
            // Ours are added in any case.
            ("connection", "host, x-forwarded-proto"),
        ]);
        pass_request(&mut behind_others, peer);
        assert_eq!(
            lines(&behind_others),
            [
                "x-forwarded-for: 198.51.100.1, 203.0.113.5, 10.0.0.1, 192.0.2.7",
                "x-forwarded-host: outer",
                "x-forwarded-proto: http"
            ]
        );
    }

    #[test]
    fn an_answer_keeps_its_length_only_where_no_body_says_it() {
        for (lines, is_empty, kept) in [
            (&[("content-length", "5")][..], false, false),
            (&[("content-length", "5")], true, true),
            (
                &[("content-length", "5"), ("content-length", "5")],
                false,
                false,
            ),
            (
                &[("content-length", "5"), ("transfer-encoding", "chunked")],
                true,
                false,
            ),
        ] {
            let mut headers = headers(lines);
            pass_answer(&mut headers, is_empty);
            assert_eq!(headers.contains_key(CONTENT_LENGTH), kept, "{lines:?}");
            assert!(!headers.contains_key(TRANSFER_ENCODING));
        }
    }

    #[test]
    fn a_redirect_within_the_upstream_stays_here() {
        for (base, to, expected) in [
            ("http://inner:8123", "http://inner:8123/a?b#c", "/a?b#c"),
            ("http://inner:8123/", "http://inner:8123/", "/"),
            ("http://inner/api", "http://inner/api/a", "/a"),
            ("http://inner/api", "http://inner/apis", "http://inner/apis"),
            ("http://inner", "http://inner:1/a", "http://inner:1/a"),
            (
                "http://inner",
                "http://inner//evil/a",
                "http://inner//evil/a",
            ),
            ("http://inner", "http://inner/\\evil", "http://inner/\\evil"),
            ("http://inner", "https://login/a", "https://login/a"),
            ("http://inner", "../a", "../a"),
        ] {
            let base: HttpUrl = base.parse().expect(base);
            let mut headers = headers(&[("location", to)]);
            redirect_here(&base, &mut headers);
            assert_eq!(lines(&headers), [format!("location: {expected}")], "{base}");
        }
    }

    #[test]
    fn only_chunks_are_understood() {
        let plain = |lines: &[(&'static str, &'static str)]| is_plainly_framed(&headers(lines));
        assert!(plain(&[]) && plain(&[("transfer-encoding", "Chunked")]));
        for other in [
            "gzip, chunked",
            "chunked, chunked",
            "xchunked",
            "identity",
            "",
        ] {
            assert!(!plain(&[("transfer-encoding", other)]), "{other}");
        }
        assert!(!plain(&[
            ("transfer-encoding", "gzip"),
            ("transfer-encoding", "chunked")
        ]));
    }

    #[test]
    fn only_websockets_are_switched_to() {
        let asks = |connection, upgrade| {
            let headers = headers(&[("connection", connection), ("upgrade", upgrade)]);
            is_websocket(Version::HTTP_11, &headers)
        };
        assert!(asks("keep-alive, Upgrade", "WebSocket"));
        assert!(!asks("keep-alive", "websocket"));
        assert!(!asks("upgrade, http2-settings", "h2c"));
        assert!(!is_websocket(
            Version::HTTP_10,
            &headers(&[("connection", "upgrade"), ("upgrade", "websocket")])
        ));
    }
}
