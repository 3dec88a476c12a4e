-- Three organizations, twelve agents (one draft, one deleted), tools that agents share.

insert into public.organizations (id, name) values
  ('0a000000-0000-4000-8000-000000000001', 'Harbour Outfitters'),
  ('0a000000-0000-4000-8000-000000000002', 'Northwind Clinics'),
  ('0a000000-0000-4000-8000-000000000003', 'Lumen Legal');

insert into public.organization_members (organization_id, user_id) values
  ('0a000000-0000-4000-8000-000000000001', '0e000000-0000-4000-8000-000000000001'),
  ('0a000000-0000-4000-8000-000000000002', '0e000000-0000-4000-8000-000000000002'),
  ('0a000000-0000-4000-8000-000000000003', '0e000000-0000-4000-8000-000000000003');

insert into public.ai_models (id, runtime_model_name) values
  ('0b000000-0000-4000-8000-000000000001', 'openai:gpt-4o'),
  ('0b000000-0000-4000-8000-000000000002', 'anthropic:claude-sonnet-4-5'),
  ('0b000000-0000-4000-8000-000000000003', 'openai:gpt-4o-mini');

insert into public.global_ai_engines (id, name, language_model_id) values
  ('0c000000-0000-4000-8000-000000000001', 'Balanced', '0b000000-0000-4000-8000-000000000001'),
  ('0c000000-0000-4000-8000-000000000002', 'Careful', '0b000000-0000-4000-8000-000000000002'),
  ('0c000000-0000-4000-8000-000000000003', 'Quick', '0b000000-0000-4000-8000-000000000003');

insert into public.mcp_tools (id, tool_name, endpoint_url, is_builtin, auth_required) values
  ('0d000000-0000-4000-8000-000000000001', 'search_orders', 'https://mcp.harbour.example/orders', false, true),
  ('0d000000-0000-4000-8000-000000000002', 'refund_order', 'https://mcp.harbour.example/orders', false, true),
  ('0d000000-0000-4000-8000-000000000003', 'web_search', 'https://mcp.tools.example/search', false, false),
  ('0d000000-0000-4000-8000-000000000004', 'book_appointment', 'https://mcp.northwind.example/calendar', false, true),
  ('0d000000-0000-4000-8000-000000000005', 'search_case_law', 'https://mcp.lumen.example/library', false, false),
  ('0d000000-0000-4000-8000-000000000006', 'calculator', null, true, false);

insert into public.agents
  (id, organization_id, name, description, status, deleted_at, engine_id, system_prompt, sampling_params)
values
  ('a0000000-0000-4000-8000-000000000001', '0a000000-0000-4000-8000-000000000001', 'Refund Desk',
   'Decides refunds within policy', 'active', null, '0c000000-0000-4000-8000-000000000002',
   'You handle refund requests for Harbour Outfitters. Check the order before you promise anything.',
   '{"temperature": 0.2, "max_tokens": 1200}'),
  ('a0000000-0000-4000-8000-000000000002', '0a000000-0000-4000-8000-000000000001', 'Gear Advisor',
   'Recommends equipment', 'active', null, '0c000000-0000-4000-8000-000000000001',
   'You help customers choose outdoor equipment. Ask about season, terrain and budget first.',
   '{"temperature": 0.7}'),
  ('a0000000-0000-4000-8000-000000000003', '0a000000-0000-4000-8000-000000000001', 'Stock Watcher',
   'Answers what is on the shelves', 'active', null, '0c000000-0000-4000-8000-000000000003',
   'You answer questions about stock levels, briefly and with numbers.', null),
  ('a0000000-0000-4000-8000-000000000004', '0a000000-0000-4000-8000-000000000001', 'Holiday Campaign',
   'Not ready yet', 'draft', null, '0c000000-0000-4000-8000-000000000001',
   'You write copy for the holiday campaign.', null),
  ('a0000000-0000-4000-8000-000000000005', '0a000000-0000-4000-8000-000000000002', 'Front Desk',
   'Books and moves appointments', 'active', null, '0c000000-0000-4000-8000-000000000001',
   'You are the front desk of Northwind Clinics. You never give medical advice.', '{"temperature": 0}'),
  ('a0000000-0000-4000-8000-000000000006', '0a000000-0000-4000-8000-000000000002', 'Intake Nurse',
   'Collects symptoms before a visit', 'active', null, '0c000000-0000-4000-8000-000000000002',
   'You collect symptoms in plain language and summarise them for the physician.', '{"temperature": 0.1}'),
  ('a0000000-0000-4000-8000-000000000007', '0a000000-0000-4000-8000-000000000002', 'Billing Helper',
   'Explains invoices', 'active', null, '0c000000-0000-4000-8000-000000000003',
   'You explain invoices and payment plans patiently.', null),
  ('a0000000-0000-4000-8000-000000000008', '0a000000-0000-4000-8000-000000000002', 'Flu Season 2024',
   'Retired', 'active', '2025-03-01 09:00:00+00', '0c000000-0000-4000-8000-000000000003',
   'You answer questions about the 2024 flu shots.', null),
  ('a0000000-0000-4000-8000-000000000009', '0a000000-0000-4000-8000-000000000003', 'Case Researcher',
   'Finds precedents', 'active', null, '0c000000-0000-4000-8000-000000000002',
   'You find precedents and cite every one of them.', '{"temperature": 0.1, "top_p": 0.9}'),
  ('a0000000-0000-4000-8000-00000000000a', '0a000000-0000-4000-8000-000000000003', 'Contract Reader',
   'Marks unusual clauses', 'active', null, '0c000000-0000-4000-8000-000000000002',
   'You read contracts and list the clauses that a careful lawyer would question.', '{"max_tokens": 4000}'),
  ('a0000000-0000-4000-8000-00000000000b', '0a000000-0000-4000-8000-000000000003', 'Client Intake',
   'First conversation with a client', 'active', null, '0c000000-0000-4000-8000-000000000001',
   'You hold the first conversation with a new client of Lumen Legal. You do not give legal advice.', null),
  ('a0000000-0000-4000-8000-00000000000c', '0a000000-0000-4000-8000-000000000003', 'Office Assistant',
   'Everything else', 'active', null, null,
   'You help the staff of Lumen Legal with whatever comes up.', null);

insert into public.agent_mcp_tools (agent_id, mcp_tool_id) values
  ('a0000000-0000-4000-8000-000000000001', '0d000000-0000-4000-8000-000000000001'),
  ('a0000000-0000-4000-8000-000000000001', '0d000000-0000-4000-8000-000000000002'),
  ('a0000000-0000-4000-8000-000000000002', '0d000000-0000-4000-8000-000000000003'),
  ('a0000000-0000-4000-8000-000000000003', '0d000000-0000-4000-8000-000000000001'),
  ('a0000000-0000-4000-8000-000000000005', '0d000000-0000-4000-8000-000000000004'),
  ('a0000000-0000-4000-8000-000000000006', '0d000000-0000-4000-8000-000000000004'),
  ('a0000000-0000-4000-8000-000000000006', '0d000000-0000-4000-8000-000000000006'),
  ('a0000000-0000-4000-8000-000000000007', '0d000000-0000-4000-8000-000000000006'),
  ('a0000000-0000-4000-8000-000000000009', '0d000000-0000-4000-8000-000000000003'),
  ('a0000000-0000-4000-8000-000000000009', '0d000000-0000-4000-8000-000000000005'),
  ('a0000000-0000-4000-8000-00000000000a', '0d000000-0000-4000-8000-000000000005'),
  ('a0000000-0000-4000-8000-00000000000c', '0d000000-0000-4000-8000-000000000003');
