package schema_test

import (
	"fmt"
	"time"

	"github.com/drover-ml/drover/nomadplugin/schema"
)

var taskSchema = schema.Object(map[string]*schema.Spec{
	"image":   schema.Attr("image", "string", true),
	"timeout": schema.Default(schema.Attr("timeout", "string", false), `"30s"`),
	"labels":  schema.BlockAttrs("labels", "string", false),
	"mount": schema.BlockList("mount", 0, 0, schema.Object(map[string]*schema.Spec{
		"source":   schema.Attr("source", "string", true),
		"readonly": schema.Default(schema.Attr("readonly", "bool", false), "true"),
	})),
})

// The way of a job's config block: the agent encodes it, the driver decodes it.
func Example() {
	sent, err := schema.EncodeTemplates(taskSchema, map[string]any{
		"image":  "trainer:${NOMAD_META_version}",
		"labels": map[string]any{"team": "vision"},
		"mount":  []any{map[string]any{"source": "/data"}},
	}, map[string]string{"NOMAD_META_version": "7"})
	if err != nil {
		fmt.Println(err)
		return
	}

	var config struct {
		Image   string            `codec:"image"`
		Timeout time.Duration     `codec:"timeout"`
		Labels  map[string]string `codec:"labels"`
		Mounts  []struct {
			Source   string `codec:"source"`
			ReadOnly bool   `codec:"readonly"`
		} `codec:"mount"`
	}
	if err := schema.Decode(sent, &config); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%+v\n", config)
	// Output:
	// {Image:trainer:7 Timeout:30s Labels:map[team:vision] Mounts:[{Source:/data ReadOnly:true}]}
}

// Everything that is wrong is told at once.
func ExampleEncode_errors() {
	_, err := schema.Encode(taskSchema, map[string]any{
		"imagee": "trainer",
		"mount":  []any{map[string]any{"source": []any{"/data"}}},
	})
	fmt.Println(err)
	// Output:
	// incorrect attribute value type: Inappropriate value for attribute "source": string required, but have tuple.
	// missing required argument: The argument "image" is required, but no definition was found.
	// unknown key: No argument or block type is named "imagee". Did you mean "image"?
}

// Errors of Decode name the attribute.
func ExampleDecode_errors() {
	sent, err := schema.Encode(taskSchema, map[string]any{"image": "x", "timeout": "5"})
	if err != nil {
		fmt.Println(err)
		return
	}
	var config struct {
		Timeout time.Duration `codec:"timeout"`
	}
	fmt.Println(schema.Decode(sent, &config))
	// Output:
	// timeout: want a duration such as "1m30s", got "5"
}
