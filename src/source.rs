//! Reads agents. Never writes to a table of the application's.
//!
//! Schemas drift, so the statements are fitted to the tables and columns that exist. What is missing is reported once;
//! a statement that fails because something has gone missing since then makes it look again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_postgres::Row as Record;
use tokio_postgres::types::Type;
use tracing::{info, warn};
use uuid::Uuid;

use crate::access::Identity;
use crate::agent::{HEAD, LARGEST, Row};
use crate::config::Authorize;
use crate::database::prepared::Prepared;
use crate::database::{Error, Param, Session, Transaction, column};
use crate::ids::AgentId;
use crate::pass::Extent;
use crate::scope::Scope;
use crate::sql;

/// What the mapping reads, by table. Only `agents.id` is essential.
pub const COLUMNS: [(&str, &[&str]); 5] = [
    (
        "agents",
        &[
            "id",
            "organization_id",
            "name",
            "description",
            "status",
            "deleted_at",
            "graph_id",
            "engine_id",
            "system_prompt",
            "assistant_tool_ids",
            "langgraph_assistant_id",
        ],
    ),
    ("agent_mcp_tools", &["agent_id", "mcp_tool_id"]),
    (
        "mcp_tools",
        &["id", "tool_name", "endpoint_url", "auth_required"],
    ),
    ("global_ai_engines", &["id", "language_model_id"]),
    ("ai_models", &["id", "runtime_model_name"]),
];

/// The columns of `agents` that hold parameters, by generation.
const PARAMETERS: [&str; 3] = ["sampling_params", "temperature", "max_tokens"];

/// In the place of the tools, links or models of which there is no table, and of what they say.
const NOTHING: &str = "select null::uuid as id, null::uuid as agent_id, null::text as tools, null::text as model, null::bytea as said \
     where false";

/// What is asked in a look around: the source tables' columns, and which server has them.
pub const LOOK: &str = concat!(sql!("source_columns"), "union all\n", sql!("server"));

/// Reads agents from one database.
#[derive(Debug, Default)]
pub struct Source {
    known: Mutex<Known>,
}

/// What came of the last look around.
#[derive(Debug, Default)]
struct Known {
    shape: Option<Arc<Shape>>,
    /// Something has changed since.
    is_outdated: bool,
}

/// What there is to read, and where.
#[derive(Debug)]
pub struct Shape {
    tables: Tables,
    /// The statement that reads what Supabase Auth knows of users; `None` where `auth.users` is not there, or may not be read.
    known_users: Option<String>,
    /// Which database this is, of which server, since when.
    place: String,
}

/// What the source tables look like. Another look is another meaning of every agent.
#[derive(Debug, PartialEq, Eq)]
struct Tables {
    missing: Vec<String>,
    has_organizations: bool,
    has_tools: bool,
    has_models: bool,
    statements: Statements,
}

/// What is sent, without the parts whose tables or columns do not exist.
#[derive(Debug, PartialEq, Eq)]
struct Statements {
    read: String,
    look: String,
    /// Without candidates.
    look_over: String,
    weigh_removals: String,
    spread_tools: String,
    spread_engines: String,
    spread_models: String,
    spread_everything: String,
    read_as_caller: String,
    list_as_caller: String,
    glances: Glances,
    whole_glances: Glances,
    acting: String,
    graphs: String,
}

/// What is sent for a glance at one agent.
#[derive(Debug, PartialEq, Eq)]
pub struct Glances {
    /// `sql/queries/glance.sql`.
    pub glance: Prepared,
    /// `sql/queries/glance_as_caller.sql`.
    pub as_caller: Prepared,
}

/// A part of what a pass comes to.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    pub scope: &'a Scope,
    pub extent: Extent,
    pub after: Option<AgentId>,
    pub limit: usize,
}

/// What one look told of many agents.
#[derive(Debug)]
pub struct Page {
    /// The last one of all of them.
    pub last: AgentId,
    /// How many are as they should be.
    pub unchanged: usize,
    /// How many are not there any more, and done with.
    pub gone: usize,
    /// Those of which it cannot be told like this.
    pub due: Vec<AgentId>,
}

impl Source {
    /// Looks at the tables. An error if there is no `public.agents` with an `id`.
    pub async fn inspect(&self, client: &tokio_postgres::Client) -> Result<Arc<Shape>, Error> {
        let shape = Arc::new(Shape::seen(&client.query_typed(LOOK, &[]).await?)?);
        let now = Known {
            shape: Some(shape.clone()),
            is_outdated: false,
        };
        let before = std::mem::replace(&mut *self.known(), now).shape;
        let (missing, is_first) = (&shape.tables.missing, before.is_none());
        if !before.is_some_and(|before| before.has_same_tables(&shape)) {
            if !missing.is_empty() {
                warn!(
                    missing = missing.join(", "),
                    "the source tables are incomplete, agents are synced without"
                );
            } else if !is_first {
                info!("the source tables are complete");
            }
        }
        Ok(shape)
    }

    /// The tables have changed, or the server is another: what was seen of them does not count any more.
    pub fn outdated(&self) {
        self.known().is_outdated = true;
    }

    /// What the tables look like; looks when that is not known. On the caller's connection: one that asked the pool for
    /// a second one while it has a first could wait for itself.
    pub async fn shape(&self, client: &tokio_postgres::Client) -> Result<Arc<Shape>, Error> {
        match self.known_shape() {
            Some(shape) => Ok(shape),
            None => self.inspect(client).await,
        }
    }

    /// The same, as far as it is known.
    pub fn known_shape(&self) -> Option<Arc<Shape>> {
        let known = self.known();
        known.shape.clone().filter(|_| !known.is_outdated)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shape {
    /// What came of [`LOOK`].
    pub fn seen(rows: &[Record]) -> Result<Self, Error> {
        let mut columns: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in rows {
            columns
                .entry(column(row, "source")?)
                .or_default()
                .insert(column(row, "name")?);
        }
        let place = columns
            .remove("server")
            .and_then(|mut place| place.pop_first());
        Self::of(&columns, place.unwrap_or_default())
    }

    /// Tables and columns that agents are synced without.
    pub fn missing(&self) -> &[String] {
        &self.tables.missing
    }

    fn of(columns: &BTreeMap<String, BTreeSet<String>>, place: String) -> Result<Self, Error> {
        let has =
            |table: &str, name: &str| columns.get(table).is_some_and(|names| names.contains(name));
        if !has("agents", "id") {
            return Err(Error::Setup(
                "there is no table public.agents with a column id: is DATABASE_URL the application's database, \
                 and may this role see the table?"
                    .to_owned(),
            ));
        }
        let mut missing: Vec<String> = COLUMNS
            .iter()
            .flat_map(|(table, names)| match columns.contains_key(*table) {
                true => names
                    .iter()
                    .filter(|name| !has(table, name))
                    .map(|name| format!("{table}.{name}"))
                    .collect(),
                false => vec![format!("table {table}")],
            })
            .collect();
        if !has("agents", "sampling_params") && !has("agents", "temperature") {
            missing
                .push("agents.sampling_params (or the older temperature, max_tokens)".to_owned());
        }
        let has_tools = has("agent_mcp_tools", "agent_id")
            && has("agent_mcp_tools", "mcp_tool_id")
            && has("mcp_tools", "id");
        let has_models = has("agents", "engine_id")
            && has("global_ai_engines", "id")
            && has("global_ai_engines", "language_model_id")
            && has("ai_models", "id");
        let has_organizations = has("agents", "organization_id");
        let mapped = |quote: char| {
            let names = COLUMNS[0].1.iter().chain(&PARAMETERS);
            let present = names
                .filter(|name| has("agents", name) && **name != "langgraph_assistant_id")
                .map(|name| format!("{quote}{name}{quote}"));
            present.collect::<Vec<_>>().join(", ")
        };
        let limited = |statement: String| replace_part(statement, "largest", &LARGEST.to_string());
        let as_caller =
            |statement: &str| limited(replace_part(statement.to_owned(), "columns", &mapped('"')));
        let head = HEAD
            .iter()
            .filter(|name| has("agents", name))
            .map(|name| format!("a.{name}"))
            .collect::<Vec<_>>()
            .join(", ");
        let fit = |statement: &str| {
            let parts = [
                ("organization", has_organizations, "null"),
                ("status", has("agents", "status"), "true"),
                ("deleted_at", has("agents", "deleted_at"), "true"),
                ("graph_id", has("agents", "graph_id"), "null::text"),
                (
                    "anonymous",
                    has("auth.users", "is_anonymous"),
                    "null::boolean",
                ),
            ];
            parts
                .into_iter()
                .filter(|(_, present, _)| !present)
                .fold(statement.to_owned(), |fitted, (part, _, instead)| {
                    replace_part(fitted, part, instead)
                })
        };
        // The columns that the mapping reads, and which ones those are.
        let columns = |table: usize, alias: char| {
            let (table, names) = COLUMNS[table];
            let parameters = PARAMETERS.iter().filter(|_| table == "agents");
            let names = names.iter().chain(parameters).copied();
            let present: Vec<&str> = names
                .filter(|name| has(table, name) && *name != "langgraph_assistant_id")
                .collect();
            let texts = present.iter().map(|name| format!("{alias}.{name}::text"));
            let named = format!("'{}'", present.join(" "));
            std::iter::once(named)
                .chain(texts)
                .collect::<Vec<_>>()
                .join(", ")
        };
        // What agents, tools and models say of that, as a hash or as bytes.
        let agent_said = format!("sha256(record_send(row({})))", columns(0, 'a'));
        let tool_said = format!("sha256(record_send(row({})))", columns(2, 't'));
        let model_said = format!("record_send(row({}))", columns(4, 'm'));
        let with_said = |statement: &str| {
            let statement = replace_part(statement.to_owned(), "agent said", &agent_said);
            let statement = replace_part(statement, "tool said", &tool_said);
            replace_part(statement, "model said", &model_said)
        };
        let without = |statement: String, parts: &[(&str, bool, &str)]| {
            let missing = parts.iter().filter(|(_, present, _)| !present);
            missing.fold(statement, |fitted, (part, _, instead)| {
                replace_part(fitted, part, instead)
            })
        };
        let look_over = without(
            with_said(sql!("look_over")),
            &[
                ("tools", has_tools, NOTHING),
                ("links", has_tools, NOTHING),
                ("models", has_models, NOTHING),
                ("engine", has_models, "null::uuid"),
                ("named", has("agents", "langgraph_assistant_id"), "true"),
            ],
        );
        let reading = |[tool, model, agent]: [&str; 3]| {
            let read = limited(replace_part(sql!("read_agents").to_owned(), "head", &head));
            let read = replace_part(read, "tool said", tool);
            let read = replace_part(read, "model said", model);
            let read = replace_part(read, "said", agent);
            without(
                read,
                &[
                    ("tools", has_tools, NOTHING),
                    ("models", has_models, NOTHING),
                    ("engine", has_models, "false"),
                ],
            )
        };
        let look = reading([&tool_said, &model_said, &with_said(sql!("source_said"))]);
        let read = reading(["null::bytea"; 3]);
        let has_users = has("auth.users", "id") && has("auth.users", "raw_app_meta_data");
        let read_as_caller = as_caller(sql!("read_as_caller"));
        // One agent, instead of several.
        let one = |statement: &str| {
            let statement = statement.trim_end().trim_end_matches(';');
            statement.replace("any ($1::uuid[])", "$1")
        };
        let whole_said = without(
            with_said(sql!("glance_said")),
            &[
                ("tools", has_tools, "null::bytea"),
                ("model", has_models, "null::bytea"),
            ],
        );
        let glances = |shown: &str, as_caller: &str| {
            let parts = [("shown", shown), ("said", &whole_said)];
            let glance = parts
                .into_iter()
                .fold(sql!("glance").to_owned(), |glance, (part, said)| {
                    replace_part(glance, part, said)
                });
            let glance = without(
                glance,
                &[
                    ("organization", has_organizations, "null::text"),
                    (
                        "named",
                        has("agents", "langgraph_assistant_id"),
                        "a.id::text",
                    ),
                ],
            );
            let as_caller = replace_part(sql!("glance_as_caller").to_owned(), "read", as_caller);
            Glances {
                glance: Prepared::new("uuid, text, text", &glance),
                as_caller: Prepared::new("uuid, text", &as_caller),
            }
        };
        let agent_as_caller =
            format!("select {agent_said} as shown from public.agents as a where a.id = $1");
        let whole_as_caller = format!("select said as shown from ({}) as r", one(&look));
        let tables = Tables {
            missing,
            has_organizations,
            has_tools,
            has_models,
            statements: Statements {
                glances: glances(&agent_said, &agent_as_caller),
                whole_glances: glances(&whole_said, &whole_as_caller),
                look,
                look_over,
                read,
                weigh_removals: fit(sql!("weigh_removals")),
                spread_tools: fit(sql!("spread_tools")),
                spread_engines: fit(sql!("spread_engines")),
                spread_models: fit(sql!("spread_models")),
                spread_everything: fit(sql!("spread_everything")),
                read_as_caller,
                list_as_caller: fit(&as_caller(sql!("list_as_caller"))),
                acting: replace_part(sql!("acting").to_owned(), "names", &mapped('\'')),
                graphs: fit(sql!("doctor_graphs")),
            },
        };
        Ok(Self {
            tables,
            known_users: has_users.then(|| fit(sql!("known_users"))),
            place,
        })
    }

    /// Whether agents mean the same as they did with this one. Another start of the server does not change that, nor does what
    /// may be known of users.
    pub fn has_same_tables(&self, other: &Self) -> bool {
        self.tables == other.tables
    }

    /// The statement that counts what a removal must be counted with, `sql/queries/weigh_removals.sql`.
    pub fn weigh_removals(&self) -> &str {
        &self.tables.statements.weigh_removals
    }

    /// Agents and everything that belongs to them, in one snapshot. Those that do not exist are missing.
    pub async fn read(
        &self,
        tx: &Transaction<'_>,
        agents: &[AgentId],
    ) -> Result<HashMap<AgentId, Row>, Error> {
        let rows = tx
            .query_typed(&self.tables.statements.read, &[(&agents, Type::UUID_ARRAY)])
            .await?;
        rows.iter().map(row).collect()
    }

    /// The same, and of each agent a hash of all that the mapping reads, and of what it goes by besides.
    pub async fn look(
        &self,
        session: Session<'_>,
        agents: &[AgentId],
        basis: &str,
    ) -> Result<(HashMap<AgentId, Row>, HashMap<AgentId, Vec<u8>>), Error> {
        let params: [Param<'_>; 2] = [(&agents, Type::UUID_ARRAY), (&basis, Type::TEXT)];
        let records = session.query(&self.tables.statements.look, &params).await?;
        let mut rows = HashMap::with_capacity(records.len());
        let mut sources = HashMap::with_capacity(records.len());
        for record in &records {
            let (id, row) = row(record)?;
            sources.insert(id, column(record, "said")?);
            rows.insert(id, row);
        }
        Ok((rows, sources))
    }

    /// The next `limit` agents after `after` that a pass over the scope comes to, all in one snapshot: which of them have to be looked at.
    /// `basis`: as of [`Self::look`]. `names`: whether an agent's row names its assistant. Needs our schema. `None`: there are no more.
    pub async fn look_over(
        &self,
        client: &tokio_postgres::Client,
        stretch: &Stretch<'_>,
        basis: &str,
        names: bool,
    ) -> Result<Option<Page>, Error> {
        let Some(candidates) = self.candidates_statement(stretch.scope, stretch.extent)? else {
            return Ok(None);
        };
        let candidates = candidates.trim_end().trim_end_matches(';');
        let statement = replace_part(
            self.tables.statements.look_over.clone(),
            "candidates",
            candidates,
        );
        let limit = i64::try_from(stretch.limit).unwrap_or(i64::MAX);
        let organizations: Option<Vec<Uuid>> = match stretch.scope {
            Scope::Organizations(organizations) => Some(organizations.iter().copied().collect()),
            Scope::None | Scope::All => None,
        };
        let beyond = stretch.extent == Extent::Reach;
        let params: [Param<'_>; 6] = [
            (&stretch.after, Type::UUID),
            (&limit, Type::INT8),
            (&organizations, Type::UUID_ARRAY),
            (&beyond, Type::BOOL),
            (&basis, Type::TEXT),
            (&names, Type::BOOL),
        ];
        let rows = client.query_typed(&statement, &params).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let Some(last) = column(row, "last")? else {
            return Ok(None);
        };
        let due: Vec<AgentId> = column(row, "due")?;
        let (looked, gone): (i64, i64) = (column(row, "looked")?, column(row, "gone")?);
        Ok(Some(Page {
            last,
            unchanged: usize::try_from(looked - gone)
                .unwrap_or(0)
                .saturating_sub(due.len()),
            gone: usize::try_from(gone).unwrap_or(0),
            due,
        }))
    }

    /// What the worker itself is sent to read agents; a caller needs privileges on all of it to be sent the same.
    pub fn read_whole(&self) -> &str {
        &self.tables.statements.read
    }

    /// The same of a caller: only the columns of `public.agents` that the mapping uses.
    pub fn read_as_caller(&self) -> &str {
        &self.tables.statements.read_as_caller
    }

    /// What is read of an agent and its assistants at once; and what of the agent its caller is to be shown, too.
    pub fn glances(&self, authorize: Authorize) -> &Glances {
        match authorize {
            Authorize::Agent => &self.tables.statements.glances,
            Authorize::Source => &self.tables.statements.whole_glances,
        }
    }

    /// Ids of all agents that a caller may read.
    pub fn list_as_caller(&self) -> &str {
        &self.tables.statements.list_as_caller
    }

    /// Which database was looked at.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The statement that tells which graphs active agents name.
    pub fn graphs(&self) -> &str {
        &self.tables.statements.graphs
    }

    /// Whether agents have organizations that are known.
    pub fn has_organizations(&self) -> bool {
        self.tables.has_organizations
    }

    /// Whether what Supabase Auth knows of users is known.
    pub fn has_users(&self) -> bool {
        self.known_users.is_some()
    }

    /// What a caller's role may do at all.
    pub fn acting(&self) -> &str {
        &self.tables.statements.acting
    }

    /// These users as Supabase Auth knows them, as far as the worker may ask.
    pub async fn identities(
        &self,
        tx: &Transaction<'_>,
        users: &[Uuid],
    ) -> Result<Vec<Identity>, Error> {
        let mut known = HashMap::new();
        if let Some(statement) = &self.known_users
            && !users.is_empty()
        {
            for row in tx
                .query_typed(statement, &[(&users, Type::UUID_ARRAY)])
                .await?
            {
                let app_metadata: &str = column(&row, "app_metadata")?;
                let said = (
                    serde_json::from_str(app_metadata).ok(),
                    column(&row, "is_anonymous")?,
                );
                known.insert(column::<Uuid>(&row, "id")?, said);
            }
        }
        let identity = |user: &Uuid| {
            let (app_metadata, is_anonymous) = known.remove(user).unwrap_or_default();
            Identity::absent(*user, app_metadata, is_anonymous)
        };
        Ok(users.iter().map(identity).collect())
    }

    /// The next `limit` agents after `after` that a pass over the scope has to look at. They are only candidates: what
    /// they say is read under their locks.
    pub async fn candidates(
        &self,
        client: &tokio_postgres::Client,
        scope: &Scope,
        extent: Extent,
        after: Option<AgentId>,
        limit: usize,
    ) -> Result<Vec<AgentId>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let Some(statement) = self.candidates_statement(scope, extent)? else {
            return Ok(Vec::new());
        };
        let rows = ask(client, &statement, scope, extent, after, Some(limit)).await?;
        rows.iter().map(|row| column(row, "id")).collect()
    }

    /// How many those are altogether.
    pub async fn count_candidates(
        &self,
        client: &tokio_postgres::Client,
        scope: &Scope,
        extent: Extent,
    ) -> Result<u64, Error> {
        let Some(statement) = self.candidates_statement(scope, extent)? else {
            return Ok(0);
        };
        let statement = statement.trim_end().trim_end_matches(';');
        let statement = format!("select count(*) as candidates from ({statement}) as c");
        let rows = ask(client, &statement, scope, extent, None, None).await?;
        let count: i64 = rows
            .first()
            .map_or(Ok(0), |row| column(row, "candidates"))?;
        Ok(count.unsigned_abs())
    }

    /// `None`: there cannot be any.
    fn candidates_statement(&self, scope: &Scope, extent: Extent) -> Result<Option<String>, Error> {
        let statement = match scope {
            Scope::None if extent == Extent::Existing => return Ok(None),
            Scope::None => sql!("candidates_ledger"),
            Scope::All => sql!("candidates_all"),
            Scope::Organizations(_) if self.tables.has_organizations => {
                sql!("candidates_organizations")
            }
            Scope::Organizations(_) => {
                return Err(Error::Setup(
                    "public.agents has no column organization_id, so a scope of organizations cannot be read: use `all`"
                        .to_owned(),
                ));
            }
        };
        let statement = statement.to_owned();
        Ok(Some(match extent {
            Extent::Reach | Extent::Scope => statement,
            Extent::Existing => replace_part(statement, "ledger", ""),
        }))
    }

    /// The statement that turns changes of a shared table's rows into changes of the agents that use them, if the
    /// tables between them exist.
    pub fn spread(&self, table: &str) -> Option<&str> {
        let statements = &self.tables.statements;
        match table {
            "mcp_tools" if self.tables.has_tools => Some(&statements.spread_tools),
            "global_ai_engines" if self.tables.has_models => Some(&statements.spread_engines),
            "ai_models" if self.tables.has_models => Some(&statements.spread_models),
            _ => None,
        }
    }

    /// The statement that makes every agent count as changed, one by one.
    pub fn spread_everything(&self) -> &str {
        &self.tables.statements.spread_everything
    }
}

/// Asks for candidates.
async fn ask(
    client: &tokio_postgres::Client,
    statement: &str,
    scope: &Scope,
    extent: Extent,
    after: Option<AgentId>,
    limit: Option<i64>,
) -> Result<Vec<Record>, Error> {
    let mut params: Vec<Param<'_>> = vec![(&after, Type::UUID), (&limit, Type::INT8)];
    let (listed, beyond);
    if let Scope::Organizations(organizations) = scope {
        listed = organizations.iter().copied().collect::<Vec<Uuid>>();
        beyond = extent == Extent::Reach;
        params.extend([(&listed as _, Type::UUID_ARRAY), (&beyond as _, Type::BOOL)]);
    }
    Ok(client.query_typed(statement, &params).await?)
}

/// A row of any of the statements that read agents.
pub fn row(record: &Record) -> Result<(AgentId, Row), Error> {
    let id = column(record, "id")?;
    let row = Row {
        id,
        agent: column(record, "agent")?,
        tools: column(record, "tools")?,
        model: column(record, "model")?,
        too_large: column(record, "too_large")?,
    };
    Ok((id, row))
}

/// Replaces `/* part */ … /* end */`.
fn replace_part(mut statement: String, part: &str, instead: &str) -> String {
    let (begin, end) = (format!("/* {part} */"), "/* end */");
    if let Some(from) = statement.find(&begin)
        && let Some(length) = statement[from..].find(end)
    {
        statement.replace_range(from..from + length + end.len(), instead);
    }
    statement
}
