//! The servers behind us: the LangGraph server on which assistants live, and the one that requests are passed through to.

use hyper::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use super::server::{judge_clock, now};
use super::web::{self, Answer};
use super::{Found, Patient, Stop, Verdict};
use crate::assistant::DEFAULT_GRAPH;
use crate::config::{
    LANGGRAPH_API_KEY, LANGGRAPH_API_URL, LANGGRAPH_HEADERS, LangGraph, Store, UPSTREAM,
};
use crate::database::{Error, column};

/// The clock of a server that says the time in whole seconds may seem so far off.
const WHOLE_SECONDS: f64 = 1.0;

impl Patient<'_> {
    fn langgraph(&self) -> Result<&LangGraph, Stop> {
        match &self.config.store {
            Store::LangGraph(server) => Ok(server),
            Store::Postgres | Store::Memory => Err(Stop::DoesNotApply),
        }
    }
}

async fn info(server: &LangGraph) -> Result<Answer, String> {
    // Answered to everybody, so it is nobody's business who asks.
    let url = server.url.without_user().join("/info");
    web::ask(Method::GET, &url, &HeaderMap::new(), None).await
}

async fn search(server: &LangGraph, body: &Value) -> Result<Answer, String> {
    let url = server.url.join("/assistants/search");
    web::ask(Method::POST, &url, &server.headers, Some(body)).await
}

pub async fn server(patient: &Patient<'_>) -> Found {
    let server = patient.langgraph()?;
    let (before, answer) = (now(), info(server).await);
    let middle = (before + now()) / 2.0;
    Ok(judge_server(answer, middle, &server.url.to_string()))
}

fn judge_server(answer: Result<Answer, String>, now: f64, url: &str) -> Verdict {
    let url = url.trim_end_matches('/');
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => {
            return Verdict::wrong(
                format!("{url} cannot be reached: {why}"),
                format!(
                    "curl -sS -i '{url}/ok'   # is the server up, and {LANGGRAPH_API_URL} where it answers?"
                ),
            );
        }
    };
    let look = format!(
        "curl -sS -i '{url}/info'   # is {LANGGRAPH_API_URL} right, with the path that the server is mounted at?"
    );
    if !answer.status.is_success() && answer.status != StatusCode::NOT_FOUND {
        return Verdict::wrong(format!("{url}/info is answered {}", answer.status), look);
    }
    if let Some(date) = answer.date {
        let clock = judge_clock(now - date, WHOLE_SECONDS, "the LangGraph server's");
        if !matches!(clock, Verdict::Ok(_)) {
            return clock;
        }
    }
    match answer.body.get("version").and_then(Value::as_str) {
        Some(version) => Verdict::ok(format!("{url}, version {version}")),
        // Some have no /info; whether it is one is told by its assistants.
        None => Verdict::ok(format!("{url} answers")),
    }
}

pub async fn key(patient: &Patient<'_>) -> Found {
    let server = patient.langgraph()?;
    match search(server, &json!({"limit": 1})).await {
        Ok(answer) => Ok(judge_key(&answer, !server.headers.is_empty())),
        Err(_) => Err(Stop::Skipped("the server cannot be reached".to_owned())),
    }
}

fn judge_key(answer: &Answer, is_sent: bool) -> Verdict {
    match answer.status {
        status if status.is_success() && answer.body.is_array() => Verdict::ok(match is_sent {
            true => "the server shows its assistants to our key",
            false => "the server shows its assistants, and no key is sent",
        }),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Verdict::wrong(
            match is_sent {
                true => format!("the server refuses our key ({})", answer.status),
                false => format!(
                    "the server wants a key, and none is sent ({})",
                    answer.status
                ),
            },
            format!(
                "{LANGGRAPH_API_KEY}=…; on LangSmith and behind custom authentication also {LANGGRAPH_HEADERS}=x-auth-scheme=langsmith"
            ),
        ),
        status => Verdict::wrong(
            format!("a search for assistants is answered {status}, not as a LangGraph server does"),
            format!("is {LANGGRAPH_API_URL} right, with the path that the server is mounted at?"),
        ),
    }
}

pub async fn graphs(patient: &Patient<'_>) -> Found {
    let server = patient.langgraph()?;
    match search(server, &json!({"limit": 1})).await {
        Ok(answer) if answer.status.is_success() => {}
        _ => return Err(Stop::Skipped("the server shows no assistants".to_owned())),
    }
    let shape = patient.shape().await?;
    let rows = patient.session()?.ask(shape.graphs(), &[]).await?;
    let mut graphs: Vec<Graph> = Vec::new();
    for row in &rows {
        let graph: Option<&str> = column(row, "graph_id")?;
        let name = graph
            .filter(|graph| !graph.is_empty())
            .unwrap_or(DEFAULT_GRAPH);
        let agents: i64 = column(row, "agents")?;
        match graphs.iter_mut().find(|graph| graph.name == name) {
            Some(graph) => graph.agents += agents,
            None => graphs.push(Graph {
                name: name.to_owned(),
                agents,
                there: There::Unsaid,
            }),
        }
    }
    for graph in &mut graphs {
        graph.there = ask_for(server, &graph.name).await?;
    }
    Ok(judge_graphs(&graphs))
}

struct Graph {
    name: String,
    agents: i64,
    there: There,
}

/// Whether a server has a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Yes,
    No,
    /// Some servers take any name.
    Unsaid,
}

/// For each of its graphs a server makes an assistant of its own; the official one says so when it does not know one.
async fn ask_for(server: &LangGraph, graph: &str) -> Result<There, Stop> {
    let wanted = json!({"graph_id": graph, "metadata": {"created_by": "system"}, "limit": 1});
    let answer = search(server, &wanted).await;
    let answer = answer.map_err(|why| {
        Stop::Failed(Error::Pool(format!(
            "the LangGraph server has not answered: {why}"
        )))
    })?;
    Ok(has(graph, answer.status, &answer.body))
}

fn has(graph: &str, status: StatusCode, body: &Value) -> There {
    let is_it = |assistant: &Value| assistant.get("graph_id").is_some_and(|id| id == graph);
    match status {
        StatusCode::NOT_FOUND => There::No,
        status if status.is_success() => match body.as_array() {
            Some(found) if found.iter().any(is_it) => There::Yes,
            _ => There::Unsaid,
        },
        _ => There::Unsaid,
    }
}

fn judge_graphs(graphs: &[Graph]) -> Verdict {
    let named = |there: There| {
        let named = graphs.iter().filter(move |graph| graph.there == there);
        let named = named.map(|Graph { name, agents, .. }| match agents {
            1 => format!("{name} (1 agent)"),
            agents => format!("{name} ({agents} agents)"),
        });
        named.collect::<Vec<_>>().join(", ")
    };
    let has = |there: There| graphs.iter().any(|graph| graph.there == there);
    if graphs.is_empty() {
        return Verdict::ok("there is no active agent");
    }
    if has(There::No) {
        return Verdict::wrong(
            format!(
                "the server has no graph {}: those agents fail",
                named(There::No)
            ),
            "add it to the server's langgraph.json, or let those agents name another (public.agents.graph_id)",
        );
    }
    if has(There::Unsaid) {
        return Verdict::warning(
            format!(
                "the server does not say whether it has graph {}",
                named(There::Unsaid)
            ),
            "look into its langgraph.json; a graph that is not there fails when it is run",
        );
    }
    Verdict::ok(format!("the server has {}", named(There::Yes)))
}

pub async fn upstream(patient: &Patient<'_>) -> Found {
    let Some(url) = &patient.config.upstream else {
        return Err(Stop::DoesNotApply);
    };
    let answer = web::ask(Method::GET, &url.join("/ok"), &HeaderMap::new(), None).await;
    Ok(judge_upstream(
        answer.map(|answer| answer.status),
        &url.to_string(),
    ))
}

/// Whatever it answers, it is there.
fn judge_upstream(status: Result<StatusCode, String>, url: &str) -> Verdict {
    let url = url.trim_end_matches('/');
    match status {
        Ok(status) if status.is_server_error() => Verdict::warning(
            format!("{url} answers {status}"),
            format!("curl -sS -i '{url}/ok'"),
        ),
        Ok(_) => Verdict::ok(format!("{url} answers")),
        Err(why) => Verdict::wrong(
            format!("{url} cannot be reached, so what is passed through is answered 502: {why}"),
            format!(
                "curl -sS -i '{url}/ok'   # is the server up, and {UPSTREAM} where it answers?"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: Value) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            date: Some(1000.0),
            body,
        }
    }

    #[test]
    fn a_server_is_known_by_what_it_answers_and_by_its_clock() {
        let judged =
            |answer: Result<Answer, String>, now| judge_server(answer, now, "http://host/").word();
        let good = || answer(200, json!({"version": "0.16.7"}));
        assert_eq!(judged(Ok(good()), 1000.9), "ok");
        assert_eq!(judged(Ok(good()), 1010.0), "warning");
        assert_eq!(judged(Ok(good()), 1100.0), "wrong");
        assert_eq!(judged(Ok(answer(404, Value::Null)), 1000.0), "ok");
        assert_eq!(judged(Ok(answer(502, Value::Null)), 1000.0), "wrong");
        assert_eq!(judged(Err("away".to_owned()), 1000.0), "wrong");
    }

    #[test]
    fn a_key_is_good_when_assistants_are_shown_to_it() {
        let judged = |status, body| judge_key(&answer(status, body), true).word();
        assert_eq!(judged(200, json!([])), "ok");
        assert_eq!(judged(200, json!({})), "wrong");
        assert_eq!(
            [401, 403, 404, 500].map(|status| judged(status, Value::Null)),
            ["wrong"; 4]
        );
    }

    #[test]
    fn a_graph_is_there_when_the_server_has_an_assistant_of_its_own_for_it() {
        let told = |status, body| has("g", StatusCode::from_u16(status).expect("a status"), &body);
        assert_eq!(told(200, json!([{"graph_id": "g"}])), There::Yes);
        assert_eq!(
            told(404, json!({"detail": "Graph 'g' not found"})),
            There::No
        );
        // A server that takes any name, and one that takes no filter.
        assert_eq!(told(200, json!([])), There::Unsaid);
        assert_eq!(told(200, json!([{"graph_id": "other"}])), There::Unsaid);
        assert_eq!(told(500, Value::Null), There::Unsaid);

        let judged = |theres: &[There]| {
            let graph = |there: &There| Graph {
                name: "g".to_owned(),
                agents: 2,
                there: *there,
            };
            judge_graphs(&theres.iter().map(graph).collect::<Vec<_>>()).word()
        };
        assert_eq!(judged(&[]), "ok");
        assert_eq!(judged(&[There::Yes, There::Yes]), "ok");
        assert_eq!(judged(&[There::Yes, There::Unsaid]), "warning");
        assert_eq!(judged(&[There::Unsaid, There::No]), "wrong");
    }

    #[test]
    fn an_upstream_that_answers_is_there_whatever_it_says() {
        let judged = |status: Result<u16, &str>| {
            let status = status.map(|status| StatusCode::from_u16(status).expect("a status"));
            judge_upstream(status.map_err(str::to_owned), "http://host/").word()
        };
        assert_eq!([Ok(200), Ok(404), Ok(401)].map(judged), ["ok"; 3]);
        assert_eq!([Ok(502), Err("away")].map(judged), ["warning", "wrong"]);
    }
}
