-- Asked after the rollback: is the session as it was, so that the next borrower inherits nobody's identity?
select current_user = session_user
  and current_setting('role') = 'none'
  and coalesce(current_setting('request.jwt.claims', true), '') = ''
  as clean;
