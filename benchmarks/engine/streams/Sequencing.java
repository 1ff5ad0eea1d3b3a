import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.Properties;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * Contender: Kafka Streams, Processor API, two in-memory stores with their changelogs, one thread.
 *
 * <p>Arguments: the task's (task.py), then the processing guarantee, then for Message and for SequencedMessage the .avsc file and the
 * schema id.
 */
public final class Sequencing {
  private static Schema messageSchema;
  private static Schema sequencedSchema;
  private static int messageId;
  private static int sequencedId;

  public static void main(String[] arguments) throws Exception {
    String kafka = arguments[0], source = arguments[1], out = arguments[2], group = arguments[3], folder = arguments[5];
    messageSchema = new Schema.Parser().parse(new File(arguments[8]));
    messageId = Integer.parseInt(arguments[9]);
    sequencedSchema = new Schema.Parser().parse(new File(arguments[10]));
    sequencedId = Integer.parseInt(arguments[11]);

    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, group);
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, kafka);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, folder);
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, arguments[7]);
    settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");

    KafkaStreams streams = new KafkaStreams(topology(source, out), settings);
    Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    streams.start();
  }

  private static Topology topology(String source, String out) {
    var bytes = Serdes.ByteArray();
    return new Topology()
        .addSource("source", bytes.deserializer(), bytes.deserializer(), source)
        .addProcessor("job", Job::new, "source")
        .addStateStore(Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore("seen"), Serdes.String(), Serdes.Long()), "job")
        .addStateStore(Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore("sequences"), Serdes.String(), Serdes.Long()), "job")
        .addSink("out", out, bytes.serializer(), bytes.serializer(), "job");
  }

  private static final class Job implements Processor<byte[], byte[], byte[], byte[]> {
    private final GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(messageSchema);
    private final GenericDatumWriter<GenericRecord> writer = new GenericDatumWriter<>(sequencedSchema);
    private final java.io.ByteArrayOutputStream buffer = new java.io.ByteArrayOutputStream(512);
    private ProcessorContext<byte[], byte[]> context;
    private KeyValueStore<String, Long> seen;
    private KeyValueStore<String, Long> sequences;
    private BinaryDecoder decoder;
    private BinaryEncoder encoder;
    private Schema direction;

    @Override
    public void init(ProcessorContext<byte[], byte[]> given) {
      context = given;
      seen = given.getStateStore("seen");
      sequences = given.getStateStore("sequences");
      direction = sequencedSchema.getField("direction").schema();
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      GenericRecord message = decode(record.value());
      String id = message.get("message_id").toString();
      if (seen.get(id) != null) {
        return;
      }
      long now = System.currentTimeMillis();
      seen.put(id, now);
      String conversation = message.get("conversation_id").toString();
      Long last = sequences.get(conversation);
      long sequence = last == null ? 1 : last + 1;
      sequences.put(conversation, sequence);
      context.forward(record.withValue(encode(message, sequence, now)));
    }

    private GenericRecord decode(byte[] value) {
      ByteBuffer header = ByteBuffer.wrap(value, 0, 5);
      if (header.get() != 0 || header.getInt() != messageId) {
        throw new IllegalArgumentException("not a Message in the Confluent wire format");
      }
      try {
        decoder = DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, decoder);
        return reader.read(null, decoder);
      } catch (IOException error) {
        throw new IllegalArgumentException(error);
      }
    }

    private byte[] encode(GenericRecord message, long sequence, long now) {
      GenericRecord output = new GenericData.Record(sequencedSchema);
      output.put("tenant_id", message.get("tenant_id"));
      output.put("message_id", message.get("message_id"));
      output.put("conversation_id", message.get("conversation_id"));
      output.put("home_partition", context.taskId().partition());
      output.put("seq", sequence);
      output.put("direction", new GenericData.EnumSymbol(direction, message.get("direction").toString()));
      output.put("sender", message.get("sender"));
      output.put("kind", message.get("kind"));
      output.put("text", message.get("text"));
      output.put("requested_at", message.get("requested_at"));
      output.put("accepted_at", now);
      output.put("metadata", message.get("metadata"));
      output.put("deliveries", List.of());
      try {
        buffer.reset();
        buffer.write(ByteBuffer.allocate(5).put((byte) 0).putInt(sequencedId).array());
        encoder = EncoderFactory.get().binaryEncoder(buffer, encoder);
        writer.write(output, encoder);
        encoder.flush();
        return buffer.toByteArray();
      } catch (IOException error) {
        throw new IllegalArgumentException(error);
      }
    }
  }
}
