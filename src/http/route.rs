//! What a path names. Literal parts come before ids, as on the official server.

use hyper::{Method, Uri};

use super::Problem;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    Ok,
    Info,
    /// Under `/assistants`: for callers who say who they are.
    Assistants(Part<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    All,
    Search,
    Count,
    One(&'a str),
    Versions(&'a str),
    Latest(&'a str),
    Schemas(&'a str),
    /// What of an assistant's graph can be drawn.
    Graph(&'a str),
}

impl<'a> Route<'a> {
    /// `None`: nothing of ours.
    pub fn of(path: &'a str) -> Option<Self> {
        let mut segments = path.strip_prefix('/')?.split('/');
        let first = segments.next()?;
        let rest: Vec<&str> = segments.collect();
        let part = match (first, rest.as_slice()) {
            (_, [.., ""]) => return None,
            ("ok", []) => return Some(Self::Ok),
            ("info", []) => return Some(Self::Info),
            ("assistants", []) => Part::All,
            ("assistants", ["search"]) => Part::Search,
            ("assistants", ["count"]) => Part::Count,
            ("assistants", [id]) => Part::One(id),
            ("assistants", [id, "versions"]) => Part::Versions(id),
            ("assistants", [id, "latest"]) => Part::Latest(id),
            ("assistants", [id, "schemas"]) => Part::Schemas(id),
            ("assistants", [id, "graph" | "subgraphs"] | [id, "subgraphs", _]) => Part::Graph(id),
            _ => return None,
        };
        Some(Self::Assistants(part))
    }

    /// As it is counted: the same for all assistants.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "/ok",
            Self::Info => "/info",
            Self::Assistants(part) => match part {
                Part::All => "/assistants",
                Part::Search => "/assistants/search",
                Part::Count => "/assistants/count",
                Part::One(_) => "/assistants/{id}",
                Part::Versions(_) => "/assistants/{id}/versions",
                Part::Latest(_) => "/assistants/{id}/latest",
                Part::Schemas(_) => "/assistants/{id}/schemas",
                Part::Graph(_) => "/assistants/{id}/graph",
            },
        }
    }

    /// # Errors
    /// 405, where it does not take this method.
    pub fn check(self, method: &Method) -> Result<(), Problem> {
        let allowed = match self {
            Self::Ok | Self::Info | Self::Assistants(Part::Schemas(_) | Part::Graph(_)) => {
                "GET, HEAD"
            }
            Self::Assistants(Part::One(_)) => "GET, HEAD, PATCH, DELETE",
            Self::Assistants(_) => "POST",
        };
        match allowed.split(", ").any(|allowed| allowed == method) {
            true => Ok(()),
            false => Err(Problem::method_not_allowed(allowed)),
        }
    }
}

/// Where a path with slashes at its end leads: to the one of ours without.
pub fn without_slash(uri: &Uri) -> Option<String> {
    let path = uri.path().trim_end_matches('/');
    Route::of(path).filter(|_| path != uri.path())?;
    Some(match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_parts_come_before_ids() {
        for (path, expected) in [
            ("/ok", Some(Route::Ok)),
            ("/assistants", Some(Route::Assistants(Part::All))),
            ("/assistants/search", Some(Route::Assistants(Part::Search))),
            ("/assistants/x", Some(Route::Assistants(Part::One("x")))),
            (
                "/assistants/search/latest",
                Some(Route::Assistants(Part::Latest("search"))),
            ),
            (
                "/assistants/x/subgraphs/y",
                Some(Route::Assistants(Part::Graph("x"))),
            ),
            ("/assistants/x/subgraphs/y/z", None),
            ("/assistants/x/nothing", None),
            ("/assistants/x/", None),
            ("/assistants/", None),
            ("//assistants", None),
            ("assistants", None),
            ("/", None),
            ("", None),
            ("*", None),
        ] {
            assert_eq!(Route::of(path), expected, "{path}");
        }
    }

    /// Wherever it leads, it is a path on this server: `//elsewhere/` would be another one.
    #[test]
    fn a_slash_at_the_end_leads_to_what_is_ours_and_nowhere_else() {
        for (uri, expected) in [
            ("/assistants/", Some("/assistants")),
            ("/assistants//?a=/&b", Some("/assistants?a=/&b")),
            ("/assistants/search/?", Some("/assistants/search?")),
            ("/ok/", Some("/ok")),
            ("/assistants", None),
            ("/", None),
            ("//elsewhere/", None),
            ("//assistants/", None),
            ("/elsewhere/", None),
        ] {
            let parsed = uri.parse().expect("a path");
            assert_eq!(without_slash(&parsed).as_deref(), expected, "{uri}");
        }
    }
}
