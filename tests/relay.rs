//! In front of LangGraph's own server: what is passed on to it, what ends here, and that no way of writing a request leads past that.

use agent_sync::config::{LANGGRAPH_API_KEY, LANGGRAPH_API_URL, SCOPE, STORE};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::database::Role;
use crate::support::langgraph::{KEY, LangGraph};
use crate::support::worker::exchange;
use crate::support::{Project, TestDatabase, TestWorker, eventually};

/// An organization with a member, its agent, somebody else, and a worker in front of a server without auth.
struct Front {
    db: TestDatabase,
    server: &'static LangGraph,
    worker: TestWorker,
    project: Project,
    organization: Uuid,
    agent: Uuid,
    member: String,
    stranger: String,
}

impl Front {
    /// `None`: this is the second run of the suite, and the server has been tried.
    async fn new(scope: &str) -> Option<Self> {
        if !Role::is_first_run() {
            return None;
        }
        let server = LangGraph::shared().await;
        let (db, project) = (TestDatabase::new().await, Project::new().await);
        let (organization, member) = db.organization().await;
        // Its first digits can be written in other ways.
        let agent = Uuid::from_u128(Uuid::new_v4().as_u128() >> 8);
        db.execute(&format!(
            "insert into public.agents (id, name, status, system_prompt, organization_id)
             values ('{agent}', 'a', 'active', 'You are a.', '{organization}')"
        ))
        .await;
        let url = server.url();
        let variables = [
            (STORE, "langgraph"),
            (LANGGRAPH_API_URL, &url),
            (LANGGRAPH_API_KEY, KEY),
            (SCOPE, scope),
        ];
        let variables = [variables.as_slice(), &project.variables()].concat();
        let worker = TestWorker::start(&db, &variables).await;
        Some(Self {
            member: project.token(member),
            stranger: project.token(Uuid::new_v4()),
            db,
            server,
            worker,
            project,
            organization,
            agent,
        })
    }

    async fn ask(&self, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = Some(&body).filter(|body| !body.is_null());
        self.worker.request_as(token, method, path, body).await
    }

    fn naming(&self) -> Value {
        json!({"graph_id": "agent", "metadata": {"supabase_agent_id": self.agent, "pinned": true}})
    }

    /// An assistant as the server has it.
    async fn there(&self, id: impl std::fmt::Display) -> Option<Value> {
        let path = format!("/assistants/{id}");
        let (status, found) = self.server.request("GET", &path, None).await;
        (status == 200).then_some(found)
    }

    async fn edit(&self, prompt: &str) {
        self.db
            .execute(&format!(
                "update public.agents set system_prompt = '{prompt}'"
            ))
            .await;
    }

    async fn prompted(&self, id: Uuid, prompt: &str) -> Value {
        eventually("the assistant has the prompt", || async {
            let found = self.there(id).await.unwrap_or_default();
            let is_so = found["config"]["configurable"]["system_prompt"] == prompt;
            is_so.then_some(()).ok_or(found.to_string())
        })
        .await;
        self.there(id).await.expect("there")
    }
}

/// Sent as it is, on a connection of its own.
async fn send(front: &Front, line: &str, headers: &str, body: &[u8]) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(front.worker.api)
        .await
        .expect("connected");
    let head = format!(
        "{line}\r\nhost: test\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    status.unwrap_or(0)
}

/// Ways to write an id of which one server or another thinks that they are the same.
fn spellings(id: Uuid) -> Vec<String> {
    let simple = id.simple().to_string();
    assert!(simple.starts_with("00"), "{id}");
    let (one, two) = (&simple[1..], &simple[2..]);
    let id = id.to_string();
    let last = id.len() - 1;
    let mut all = vec![
        id.clone(),
        id.to_uppercase(),
        simple.clone(),
        format!("{{{id}}}"),
        format!("%7B{id}%7D"),
        format!("{{{{{simple}"),
        format!("urn:uuid:{id}"),
        format!("uuid:{id}"),
        format!("urn%3Auuid%3A{id}"),
        format!("%75rn:uuid:{id}"),
        format!("u%72n:{id}"),
        format!("uu%69d:{id}"),
        format!("uurn:uid:{id}"),
        format!("ururn:n:{id}"),
        format!("{simple}urn:"),
        format!("0x{two}"),
        format!("0X{two}"),
        format!("%30x{two}"),
        format!("0%78{two}"),
        format!("0x_{}", &simple[3..]),
        format!("+{one}"),
        format!("%2B{one}"),
        format!("%20{one}"),
        format!("{one}%20"),
        format!("{one}%0A"),
        format!("{one}%09"),
        format!("{one}%C2%A0"),
        format!("{one}%E3%80%80"),
        format!("0_{two}"),
        format!("%D9%A0%D9%A0{two}"),
        format!("%EF%BC%90{one}"),
        format!("--{simple}--"),
        format!("{}%2D{}", &simple[..9], &simple[9..]),
    ];
    all.extend(
        [
            "%00", "%0A", "%20", "/", "//", "%2F", ";x", "%3Bx", "?x", "#x", "/.", "%2f.", "/x/..",
            "\\", "\\..", ".", "..", "%2E", "~", "%",
        ]
        .map(|end| format!("{id}{end}")),
    );
    // Its last digit, encoded.
    all.push(format!("{}%{:02X}", &id[..last], id.as_bytes()[last]));
    all.extend(
        [
            "./",
            "/",
            "x/../",
            "x%2f%2e%2e%2f",
            "%2e/",
            "..%2fassistants%2f",
            "..;/assistants/",
        ]
        .map(|begin| format!("{begin}{id}")),
    );
    all
}

/// Ways to write where assistants are.
fn roots(front: &Front) -> Vec<String> {
    let server = front.server.address;
    [
        "/assistants/",
        "//assistants/",
        "/%61ssistants/",
        "/assistants%2F",
        "/x/../assistants/",
        "/x/%2e%2e/assistants/",
        "/./assistants/",
        "/;/assistants/",
        "/assistants;x/",
        "/assistants%0A/",
        "/Assistants/",
        "/\\assistants/",
        "http://elsewhere/assistants/",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([format!("http://{server}/assistants/")])
    .collect()
}

#[tokio::test]
async fn however_it_is_written_nobody_changes_what_is_kept_equal_to_an_agent() {
    let Some(front) = Front::new("all").await else {
        return;
    };
    let mut before = front.there(front.agent).await.expect("synced");
    let mut ids = spellings(front.agent);
    let mut tried: Vec<(String, String)> = Vec::new();
    let plain = front.agent.to_string();
    let mut paths: Vec<String> = ids
        .drain(..)
        .map(|id| format!("/assistants/{id}"))
        .collect();
    paths.extend(roots(&front).iter().map(|root| format!("{root}{plain}")));
    for path in &paths {
        let is_plain = path.ends_with(&plain);
        for version in ["HTTP/1.1", "HTTP/1.0"]
            .into_iter()
            .take(1 + usize::from(is_plain))
        {
            for method in ["PATCH", "DELETE", "PUT", "POST", "GET", "OPTIONS", "patch"] {
                tried.push((format!("{method} {path} {version}"), String::new()));
            }
            tried.push((format!("POST {path}/latest {version}"), String::new()));
        }
        for end in ["%0A", "/", "%2f", ";x", "%20"] {
            tried.push((format!("POST {path}/latest{end} HTTP/1.1"), String::new()));
        }
        tried.push((format!("POST {path}%2Flatest HTTP/1.1"), String::new()));
        tried.push((
            format!("POST {path}%2Flatest%0A/versions HTTP/1.1"),
            String::new(),
        ));
    }
    for header in [
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
    ] {
        for method in ["PATCH", "DELETE"] {
            for with in ["POST", "GET"] {
                tried.push((
                    format!("{with} /assistants/{plain}?_method={method} HTTP/1.1"),
                    format!("{header}: {method}\r\n"),
                ));
            }
        }
    }
    let body =
        json!({"name": "mallory", "metadata": {"owner": "mallory"}, "version": 1}).to_string();
    let mut through = Vec::new();
    for (line, headers) in tried {
        let headers = format!("{headers}authorization: Bearer {}\r\n", front.stranger);
        let status = send(&front, &line, &headers, body.as_bytes()).await;
        let after = front.there(front.agent).await;
        if after.as_ref() == Some(&before) {
            continue;
        }
        through.push(format!("{line} ({status})"));
        // As it was.
        if after.is_none() {
            let mut again = before.clone();
            again["context"] = json!({});
            let made = front.server.request("POST", "/assistants", Some(&again));
            assert_eq!(made.await.0, 200);
        }
        before = front.there(front.agent).await.expect("there");
    }
    assert!(through.is_empty(), "{through:#?}");
    front.worker.stop().await;
}

#[tokio::test]
async fn who_takes_the_id_of_a_lost_assistant_gets_nothing_of_its_agent() {
    let Some(front) = Front::new("all").await else {
        return;
    };
    let id = front.agent;
    let bare = json!({"assistant_id": id, "graph_id": "agent", "metadata": {"owner": "system", "mallory": true}});
    let deep = format!("{}1{}", "[".repeat(150), "]".repeat(150));
    let many = format!("[{}1]", "1,".repeat(30_000));
    let with = |field: &str, value: &str| {
        let text = bare.to_string();
        format!("{},\"{field}\":{value}}}", &text[..text.len() - 1])
    };
    let mut other_names = vec![];
    for spelled in [
        id.simple().to_string(),
        id.to_string().to_uppercase(),
        id.braced().to_string(),
        id.urn().to_string(),
        format!("0x{}", &id.simple().to_string()[2..]),
        format!(" {}", &id.simple().to_string()[1..]),
        format!("0_{}", &id.simple().to_string()[2..]),
        format!("\u{660}\u{660}{}", &id.simple().to_string()[2..]),
    ] {
        let mut body = bare.clone();
        body["assistant_id"] = json!(spelled);
        other_names.push(("/assistants", body.to_string().into_bytes()));
    }
    let mut naming = bare.clone();
    naming["metadata"]["supabase_agent_id"] = json!(id);
    let mut attempts: Vec<(&str, Vec<u8>)> = vec![
        ("/assistants", bare.to_string().into_bytes()),
        ("/assistants", naming.to_string().into_bytes()),
        ("/assistants", with("deep", &deep).into_bytes()),
        ("/assistants", with("many", &many).into_bytes()),
        ("/assistants", with("huge", "1e999").into_bytes()),
        ("/assistants", with("nan", "NaN").into_bytes()),
        ("/assistants", with("half", r#""\ud800""#).into_bytes()),
        (
            "/assistants",
            [b"\xef\xbb\xbf", bare.to_string().as_bytes()].concat(),
        ),
        ("/assistants", [bare.to_string().as_bytes(), b" x"].concat()),
        (
            "/assistants",
            [
                bare.to_string()
                    .replace("agent\"", "agent\",\"x\":\"")
                    .as_bytes(),
                b"",
            ]
            .concat(),
        ),
        ("/assistants", {
            let mut bytes = with("bytes", "\"X\"").into_bytes();
            let at = bytes.iter().rposition(|b| *b == b'X').expect("X");
            bytes[at] = 0xff;
            bytes
        }),
        (
            "/assistants",
            with("assistant_id", &format!("\"{}\"", Uuid::new_v4())).into_bytes(),
        ),
        (
            "/assistants",
            format!(
                "{{\"assistant_id\":\"{}\",{}",
                Uuid::new_v4(),
                &bare.to_string()[1..]
            )
            .into_bytes(),
        ),
    ];
    attempts.extend(other_names);
    for path in [
        "/assistants%0A",
        "/assistants/",
        "//assistants",
        "/%61ssistants",
        "/assistants%20",
        "/assistants;x",
        "/assistants?x",
        "/assistants/.",
        "/x/../assistants",
        "/assistants%2f",
        "/assistants#x",
    ] {
        attempts.push((path, bare.to_string().into_bytes()));
    }
    let path = format!("/assistants/{id}");
    let mut taken = Vec::new();
    for (at, body) in attempts {
        for token in [None, Some(&front.stranger)] {
            let gone = front.server.request("DELETE", &path, None).await;
            assert!([204, 404].contains(&gone.0), "{gone:?}");
            let headers = token.map(|token| format!("authorization: Bearer {token}\r\n"));
            let line = format!("POST {at} HTTP/1.1");
            let status = send(&front, &line, headers.as_deref().unwrap_or_default(), &body).await;
            let there = front.there(id).await.unwrap_or_default();
            if there["metadata"]["mallory"] == true {
                let body = String::from_utf8_lossy(&body)
                    .chars()
                    .take(300)
                    .collect::<String>();
                taken.push(format!("{status}: {at} {body}"));
            }
        }
    }
    assert!(taken.is_empty(), "{taken:#?}");
    front.edit("Be brief.").await;
    let found = front.prompted(id, "Be brief.").await;
    assert_eq!(found["metadata"]["owner"], "system", "{found}");
    front.worker.stop().await;
}

/// Even behind our back: nothing stays of a row that says of itself that it is another's.
#[tokio::test]
async fn a_row_that_somebody_puts_in_the_place_of_ours_keeps_nothing_of_theirs() {
    let Some(front) = Front::new("all").await else {
        return;
    };
    let path = format!("/assistants/{}", front.agent);
    assert_eq!(front.server.request("DELETE", &path, None).await.0, 204);
    let theirs = json!({"assistant_id": front.agent, "graph_id": "agent", "metadata": {"owner": "mallory", "tenant": "mallory"}});
    let made = front
        .server
        .request("POST", "/assistants", Some(&theirs))
        .await;
    if made.0 != 200 {
        // We were faster.
        assert_eq!(made.0, 409);
    }
    front.edit("Be brief.").await;
    let found = front.prompted(front.agent, "Be brief.").await;
    assert_eq!(found["metadata"]["owner"], "system", "{found}");
    assert!(found["metadata"]["tenant"].is_null(), "{found}");
    front.worker.stop().await;
}

#[tokio::test]
async fn who_asks_for_an_agent_gets_it_and_who_may_not_gets_a_bare_assistant() {
    let Some(front) = Front::new("none").await else {
        return;
    };
    let (id, member, stranger) = (front.agent, &front.member, &front.stranger);
    let (status, made) = front
        .ask(member, "POST", "/assistants", front.naming())
        .await;
    assert_eq!((status, &made["assistant_id"]), (200, &json!(id)), "{made}");
    assert_eq!(made["name"], "a");
    assert_eq!(
        made["config"]["configurable"],
        json!({"supabase_organization_id": front.organization, "model_name": "openai:gpt-4o", "system_prompt": "You are a."})
    );
    assert_eq!(made["metadata"]["pinned"], true, "{made}");
    assert_eq!(front.there(id).await.as_ref(), Some(&made));
    // Again, and as named.
    let (status, again) = front
        .ask(member, "POST", "/assistants", front.naming())
        .await;
    assert_eq!((status, &again), (200, &made));
    let mut named = front.naming();
    named["assistant_id"] = json!(id);
    let (status, taken) = front
        .ask(member, "POST", "/assistants", named.clone())
        .await;
    assert_eq!(
        (status, taken),
        (
            409,
            json!({"detail": format!("Assistant {id} already exists")})
        )
    );
    named["if_exists"] = json!("do_nothing");
    assert_eq!(
        front
            .ask(member, "POST", "/assistants", named.clone())
            .await,
        (200, made.clone())
    );

    // Another member has a copy.
    let other = Uuid::new_v4();
    front
        .db
        .execute(&format!(
            "insert into public.organization_members values ('{}', '{other}')",
            front.organization
        ))
        .await;
    let (status, copy) = front
        .ask(
            &front.project.token(other),
            "POST",
            "/assistants",
            front.naming(),
        )
        .await;
    let expected = Uuid::new_v5(&id, other.to_string().as_bytes());
    assert_eq!(
        (status, &copy["assistant_id"]),
        (200, &json!(expected)),
        "{copy}"
    );
    assert_eq!(
        (&copy["config"], &copy["metadata"]["owner"]),
        (&made["config"], &json!(other))
    );

    // Nobody else gets anything of it, nor an assistant that says so.
    let forged = json!({"graph_id": "agent", "metadata": {"supabase_agent_id": id, "supabase_organization_id": front.organization, "owner": "system", "synced_at": "x", "mine": 1},
        "config": {"configurable": {"supabase_agent_id": id, "supabase_organization_id": front.organization}, "metadata": {"supabase_agent_id": id, "owner": "system"}}});
    let (status, bare) = front.ask(stranger, "POST", "/assistants", forged).await;
    assert_eq!(status, 200, "{bare}");
    assert_eq!(bare["metadata"], json!({"mine": 1}));
    let text = bare.to_string();
    assert!(
        !text.contains(&id.to_string()) && !text.contains(&front.organization.to_string()),
        "{bare}"
    );

    // Who names an agent says who they are, the server's own auth or not.
    let (status, answer) = front.worker.create(front.naming()).await;
    assert_eq!(status, 401, "{answer}");
    front.worker.stop().await;
}

#[tokio::test]
async fn what_only_reads_is_passed_on() {
    let Some(front) = Front::new("all").await else {
        return;
    };
    let id = front.agent;
    let search = json!({"metadata": {"supabase_agent_id": id}});
    for (method, path, body) in [
        ("GET", format!("/assistants/{id}"), Value::Null),
        ("GET", format!("/assistants/{id}/schemas"), Value::Null),
        ("GET", format!("/assistants/{id}/graph"), Value::Null),
        ("GET", format!("/assistants/{id}/subgraphs"), Value::Null),
        (
            "GET",
            format!("/assistants/{}", Uuid::new_v4()),
            Value::Null,
        ),
        ("GET", "/assistants/agent".to_owned(), Value::Null),
        ("GET", "/assistants".to_owned(), Value::Null),
        ("POST", "/assistants/search".to_owned(), search.clone()),
        ("POST", "/assistants/count".to_owned(), search.clone()),
        ("POST", "/assistants/search".to_owned(), json!([])),
        ("POST", format!("/assistants/{id}/versions"), json!({})),
        ("GET", "/info".to_owned(), Value::Null),
        ("GET", "/ok".to_owned(), Value::Null),
    ] {
        let given = Some(&body).filter(|body| !body.is_null());
        let theirs = front.server.request(method, &path, given).await;
        let ours = front.worker.request(method, &path, given).await;
        assert_eq!(ours, theirs, "{method} {path}");
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn a_synced_assistant_is_its_agents_to_change_and_its_owners_to_delete() {
    let Some(front) = Front::new("none").await else {
        return;
    };
    let (id, member, stranger) = (front.agent, &front.member, &front.stranger);
    let path = format!("/assistants/{id}");
    let latest = format!("{path}/latest");
    let read_only = json!({"detail": format!("Assistant {id} is kept equal to agent {id}: edit the agent instead")});
    for _ in 0..2 {
        let (status, made) = front
            .ask(member, "POST", "/assistants", front.naming())
            .await;
        assert_eq!((status, &made["version"]), (200, &json!(1)), "{made}");
        let rename = json!({"name": "mine"});
        assert_eq!(
            front.ask(member, "PATCH", &path, rename.clone()).await,
            (409, read_only.clone())
        );
        assert_eq!(
            front
                .ask(member, "POST", &latest, json!({"version": 1}))
                .await,
            (409, read_only.clone())
        );
        for (method, path, body) in [
            ("PATCH", &path, rename),
            ("PATCH", &path, json!({"metadata": {"x": 1}})),
            ("POST", &latest, json!({"version": 1})),
            ("DELETE", &path, Value::Null),
        ] {
            assert_eq!(
                front.ask(stranger, method, path, body.clone()).await.0,
                404,
                "{method}"
            );
            let given = Some(&body).filter(|body| !body.is_null());
            assert_eq!(
                front.worker.request(method, path, given).await.0,
                401,
                "{method}"
            );
        }
        assert_eq!(front.there(id).await, Some(made));
        let (status, patched) = front
            .ask(
                member,
                "PATCH",
                &path,
                json!({"metadata": {"pinned": false}}),
            )
            .await;
        assert_eq!(
            (status, &patched["metadata"]["pinned"]),
            (200, &json!(false)),
            "{patched}"
        );
        // What is foreign stays when the agent changes.
        front.edit("Be brief.").await;
        let edited = front.prompted(id, "Be brief.").await;
        assert_eq!(edited["metadata"]["pinned"], false, "{edited}");
        assert_eq!(
            front.ask(member, "DELETE", &path, Value::Null).await,
            (204, json!(""))
        );
        assert_eq!(front.there(id).await, None);
        front.db.drained().await;
        assert_eq!(front.there(id).await, None, "it is not in scope");
        assert_eq!(front.ask(member, "DELETE", &path, Value::Null).await.0, 404);
        front.edit("You are a.").await;
        front.db.drained().await;
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn who_may_not_know_of_it_is_told_what_the_server_says_where_there_is_none() {
    let Some(front) = Front::new("all").await else {
        return;
    };
    let none = Uuid::new_v4();
    let body = json!({"name": "mine", "version": 1});
    for (method, part) in [("PATCH", ""), ("DELETE", ""), ("POST", "/latest")] {
        let ask = async |id: Uuid| {
            let path = format!("/assistants/{id}{part}");
            let (status, answer) = front
                .ask(&front.stranger, method, &path, body.clone())
                .await;
            (status, answer.to_string().replace(&id.to_string(), "<id>"))
        };
        assert_eq!(ask(front.agent).await, ask(none).await, "{method} {part}");
    }
    front.worker.stop().await;
}

#[tokio::test]
async fn what_is_everybodys_is_changed_by_nobody() {
    let Some(front) = Front::new("all").await else {
        return;
    };
    let id = front.agent;
    let path = format!("/assistants/{id}");
    for (method, path) in [
        ("PATCH", path.clone()),
        ("DELETE", path.clone()),
        ("POST", format!("{path}/latest")),
    ] {
        let body = json!({"metadata": {"pinned": 1}, "version": 1});
        let (status, answer) = front.ask(&front.member, method, &path, body.clone()).await;
        assert_eq!(status, 409, "{answer}");
        let (status, answer) = front.ask(&front.stranger, method, &path, body).await;
        assert_eq!(status, 404, "{answer}");
    }
    assert_eq!(front.there(id).await.expect("there")["version"], 1);
    front.worker.stop().await;
}

#[tokio::test]
async fn what_is_not_synced_is_changed_as_on_the_server() {
    let Some(front) = Front::new("all").await else {
        return;
    };
    let (status, made) = front
        .worker
        .create(json!({"graph_id": "agent", "name": "one"}))
        .await;
    assert_eq!(status, 200, "{made}");
    let path = format!(
        "/assistants/{}",
        made["assistant_id"].as_str().expect("an id")
    );
    let (status, patched) = front
        .worker
        .request("PATCH", &path, Some(&json!({"name": "two"})))
        .await;
    assert_eq!(
        (status, &patched["name"], &patched["version"]),
        (200, &json!("two"), &json!(2))
    );
    let (status, restored) = front
        .worker
        .request(
            "POST",
            &format!("{path}/latest"),
            Some(&json!({"version": 1})),
        )
        .await;
    assert_eq!(
        (status, &restored["version"]),
        (200, &json!(1)),
        "{restored}"
    );
    assert_eq!(front.worker.request("DELETE", &path, None).await.0, 204);
    assert_eq!(front.worker.request("DELETE", &path, None).await.0, 404);
    let upper = path.to_uppercase().replace("/ASSISTANTS", "/assistants");
    for path in [&path, &upper] {
        let theirs = front
            .server
            .request("PATCH", path, Some(&json!({"name": 1})))
            .await;
        let ours = front
            .worker
            .request("PATCH", path, Some(&json!({"name": 1})))
            .await;
        assert_eq!(ours, theirs);
    }
    front.worker.stop().await;
}

/// The key is for what the worker does of its own accord.
#[tokio::test]
async fn nobody_borrows_the_workers_key() {
    if !Role::is_first_run() {
        return;
    }
    let (db, project) = (TestDatabase::new().await, Project::new().await);
    let agent = db.agent("a").await;
    let server = LangGraph::shared_with_auth().await;
    let url = server.url();
    let variables = [
        (STORE, "langgraph"),
        (LANGGRAPH_API_URL, url.as_str()),
        (LANGGRAPH_API_KEY, KEY),
        (SCOPE, "all"),
    ];
    let worker =
        TestWorker::start(&db, &[&variables, project.variables().as_slice()].concat()).await;
    let stranger = project.token(Uuid::new_v4());
    let mut requests = vec![
        ("POST", "/assistants/search".to_owned(), json!({})),
        ("POST", "/assistants/count".to_owned(), json!({})),
        (
            "POST",
            "/assistants".to_owned(),
            json!({"graph_id": "agent"}),
        ),
        (
            "POST",
            "/assistants".to_owned(),
            json!({"graph_id": "agent", "metadata": {"supabase_agent_id": Uuid::new_v4()}}),
        ),
        (
            "POST",
            "/assistants".to_owned(),
            json!({"graph_id": "agent", "assistant_id": agent, "if_exists": "do_nothing"}),
        ),
        ("POST", "/threads".to_owned(), json!({})),
        ("POST", "/store/items/search".to_owned(), json!({})),
    ];
    for part in ["", "/graph", "/schemas", "/subgraphs"] {
        requests.push(("GET", format!("/assistants/{agent}{part}"), Value::Null));
    }
    requests.push(("POST", format!("/assistants/{agent}/versions"), json!({})));
    for (method, path, body) in requests {
        let body = Some(&body)
            .filter(|body| !body.is_null())
            .map(ToString::to_string)
            .unwrap_or_default();
        for headers in [
            format!("authorization: Bearer {stranger}\r\n"),
            String::new(),
            "x-api-key: \r\n".to_owned(),
            "connection: x-api-key, close\r\n".to_owned(),
        ] {
            let length = body.len();
            let bytes = format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
            );
            let (status, _, answer) = exchange(worker.api, &bytes).await;
            assert_eq!(status, 401, "{method} {path} {headers}: {answer}");
        }
    }
    worker.stop().await;
}
