/* Keeps the target non-empty until the core is there. */
extern int node_placeholder;
int node_placeholder;
