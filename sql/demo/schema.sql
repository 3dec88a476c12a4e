-- The part of a Supabase project that agent-sync deals with: roles, organizations and their members, and the five
-- source tables under row-level security. Used by `agent-sync demo` and by the tests.

do $$
begin
  -- Roles are shared by all databases of a cluster, so another one may have made them at this very moment.
  if to_regrole('anon') is null then create role anon nologin noinherit; end if;
  if to_regrole('authenticated') is null then create role authenticated nologin noinherit; end if;
  if to_regrole('service_role') is null then create role service_role nologin noinherit bypassrls; end if;
exception when duplicate_object or unique_violation then null;
end;
$$;

create schema auth;
create function auth.uid() returns uuid
language sql stable
set search_path = ''
as $$
  select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid;
$$;

create table public.organizations (
  id uuid primary key default gen_random_uuid(),
  name text not null
);

create table public.organization_members (
  organization_id uuid not null references public.organizations on delete cascade,
  user_id uuid not null,
  primary key (organization_id, user_id)
);

create table public.ai_models (
  id uuid primary key default gen_random_uuid(),
  runtime_model_name text
);

create table public.global_ai_engines (
  id uuid primary key default gen_random_uuid(),
  name text,
  language_model_id uuid references public.ai_models on delete set null
);

create table public.mcp_tools (
  id uuid primary key default gen_random_uuid(),
  tool_name text,
  endpoint_url text,
  is_builtin boolean not null default false,
  auth_required boolean not null default false
);

create table public.agents (
  id uuid primary key default gen_random_uuid(),
  organization_id uuid references public.organizations on delete cascade,
  name text not null,
  description text,
  status text not null default 'draft' check (status in ('active', 'draft', 'disabled')),
  deleted_at timestamptz,
  graph_id text default 'agent',
  engine_id uuid references public.global_ai_engines on delete set null,
  system_prompt text,
  sampling_params jsonb,
  assistant_tool_ids uuid[],
  is_global boolean not null default false,
  langgraph_assistant_id text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index on public.agents (organization_id);
create index on public.agents (engine_id);

create table public.agent_mcp_tools (
  agent_id uuid not null references public.agents on delete cascade,
  mcp_tool_id uuid not null references public.mcp_tools on delete cascade,
  primary key (agent_id, mcp_tool_id)
);
create index on public.agent_mcp_tools (mcp_tool_id);

create function public.touch_updated_at() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  new.updated_at := now();
  return new;
end;
$$;
create trigger touch_updated_at before update on public.agents
for each row execute function public.touch_updated_at();

alter table public.organizations enable row level security;
alter table public.organization_members enable row level security;
alter table public.ai_models enable row level security;
alter table public.global_ai_engines enable row level security;
alter table public.mcp_tools enable row level security;
alter table public.agents enable row level security;
alter table public.agent_mcp_tools enable row level security;

create policy "members see their memberships" on public.organization_members
for select to authenticated using (user_id = (select auth.uid()));
create policy "members see their organizations" on public.organizations
for select to authenticated using (
  id in (select m.organization_id from public.organization_members as m where m.user_id = (select auth.uid()))
);
create policy "members manage their organizations' agents" on public.agents
for all to authenticated using (
  organization_id in (select m.organization_id from public.organization_members as m where m.user_id = (select auth.uid()))
);
create policy "members manage their agents' tools" on public.agent_mcp_tools
for all to authenticated using (agent_id in (select a.id from public.agents as a));
create policy "users manage tools" on public.mcp_tools for all to authenticated using ((select auth.uid()) is not null);
create policy "users manage engines" on public.global_ai_engines
for all to authenticated using ((select auth.uid()) is not null);
create policy "users manage models" on public.ai_models for all to authenticated using ((select auth.uid()) is not null);

grant usage on schema public, auth to anon, authenticated, service_role;
grant execute on function auth.uid() to anon, authenticated, service_role;
grant select, insert, update, delete on all tables in schema public to authenticated, service_role;
