package traefik

import (
	"encoding/json"

	"github.com/traefik/traefik/v2/pkg/config/dynamic"
)

// Encode writes a configuration as JSON, which Traefik reads wherever it reads YAML. Equal configurations are equal bytes.
func Encode(c *dynamic.Configuration) ([]byte, error) { return json.Marshal(c) }
