-- In the database yaoju: nobody but its owner comes in.
REVOKE ALL ON DATABASE yaoju FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO "yaoju-district";
