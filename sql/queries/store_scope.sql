-- $1 text: the scope that all workers on this database share from now on.
insert into agent_sync.settings as s (scope) values ($1)
on conflict (singleton) do update set scope = excluded.scope, updated_at = now()
where s.scope is distinct from excluded.scope;
