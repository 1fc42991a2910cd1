-- The role of districtd: it owns its database and nothing else.
DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'yaoju-district') THEN
		CREATE ROLE "yaoju-district" LOGIN;
	END IF;
END
$$;
ALTER ROLE "yaoju-district" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 40;
-- Whatever the server's own settings are changed to.
ALTER ROLE "yaoju-district" SET synchronous_commit = on;
