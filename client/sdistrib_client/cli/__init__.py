"""The command line: `sdistrib-client HOST [flags]` draws, `sdistrib-client HOST VERB` lists."""
