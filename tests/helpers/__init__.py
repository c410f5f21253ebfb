"""What several tests need: plans, sites, runs, links, odd inputs, and programs that tests start as processes. No test is in here."""
